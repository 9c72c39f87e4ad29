//! `kraftr scheduler`: one replica on the real services.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use kraftr_protocol::ReleaseManifest;
use kraftr_scheduler::catalog::Catalog;
use kraftr_scheduler::clock::{SystemClock, SystemIds};
use kraftr_scheduler::{Config, Parts, Scheduler, SchedulerError};
use serde::Serialize;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cli::SchedulerArgs;
use crate::commands::{Outcome, ReadyFile, offered, readable, stop_signal};
use crate::config::SchedulerConfig;
use crate::config::concerns::{Dispatch, Models};
use crate::connect::Services;
use crate::{logging, provenance};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1_024;

/// What the ready file says: the same as that of `kraftr dev`. Keys come from `kraftr admin key create`.
#[derive(Serialize)]
struct Ready<'a> {
    url: &'a str,
    api_key: Option<&'a str>,
}

/// Serves until it is asked to stop.
pub async fn run(args: SchedulerArgs, log: Option<String>) -> Result<Outcome> {
    let config = SchedulerConfig::load(&args.flags.sources().with("log", log))?;
    logging::start(config.process.log.as_str())?;
    let ready_file = ReadyFile::at(args.ready_file.as_deref())?;
    let stop = stop_signal()?;

    // The address is taken first, so that a wrong one is known at once; it answers once there is something to serve.
    let (socket, address) = bind(config.http.listen)?;
    let url = match &config.http.public_url {
        Some(url) => url.as_str().to_owned(),
        None => format!("http://{address}"),
    };
    let services = tokio::select! {
        services = Services::reach(&config.database, &config.amqp, &config.s3, config.startup.patience) => services?,
        () = stop.cancelled() => return Ok(Outcome::Done),
    };
    let Services { store, broker, blobs } = services;
    let provenance =
        provenance::of_scheduler(&config.credentials, &config.watermark, &*store, &SystemClock).await?;
    let scheduler = Scheduler::new(
        Parts {
            store: store.clone(),
            blobs,
            directory: None,
            transport: broker.clone(),
            catalog: catalog(&config.dispatch, &config.models)?,
            clock: Arc::new(SystemClock),
            ids: Arc::new(SystemIds),
            provenance: Arc::new(provenance),
        },
        Config {
            public_url: url.clone(),
            allow_private_webhooks: config.http.allow_private_webhooks,
            pool: config.dispatch.pool.as_str().to_owned(),
            proxies: config.http.proxies.get() as usize,
        },
    );
    let listener = listen(socket, address)?;
    let serving = tokio::spawn(scheduler.run(listener, stop.clone()));
    ready_file.write(&Ready { url: &url, api_key: None })?;
    tracing::info!(http.address = %address, http.url = url, "serving");

    let ended = until_stopped(serving, &stop, config.http.grace).await;
    drop(ready_file);
    broker.close().await;
    ended?;
    tracing::info!("stopped");
    Ok(Outcome::Done)
}

/// Waits for the scheduler to end by itself, or for at most the grace once it is asked to.
async fn until_stopped(
    mut serving: JoinHandle<Result<(), SchedulerError>>,
    stop: &CancellationToken,
    grace: Duration,
) -> Result<()> {
    let ended = tokio::select! {
        ended = &mut serving => ended,
        () = async { stop.cancelled().await; tokio::time::sleep(grace).await } => {
            tracing::warn!("requests are still under way after the grace: they are cut off");
            serving.abort();
            return Ok(());
        }
    };
    ended.context("the scheduler crashed")?.context("the scheduler ended by itself")
}

/// The releases whose weights are there, or all of them where the weights are the workers' business; the empty model
/// only where it was asked for.
fn catalog(config: &Dispatch, models: &Models) -> Result<Catalog> {
    let registry = models.registry()?;
    for error in registry.manifests().filter_map(|manifest| registry.permit(manifest).err()) {
        tracing::warn!(%error, "not offered");
    }
    let is_offered = |manifest: &&ReleaseManifest| {
        registry.permit(manifest).is_ok() && (models.weights.is_none() || registry.is_present(manifest))
    };
    let manifests = registry.manifests().filter(is_offered);
    // Where the weights are the workers' business, so is the painter's.
    let manifests = match models.weights {
        Some(_) => offered(&registry, manifests),
        None => manifests.map(|manifest| readable(&registry, manifest.clone())).collect(),
    };
    let catalog = Catalog::new(&manifests);
    Ok(if config.offer_noop { catalog.with_noop(registry.present()) } else { catalog })
}

fn bind(address: SocketAddr) -> Result<(TcpSocket, SocketAddr)> {
    let bind = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let bound = socket.local_addr()?;
        Ok::<_, std::io::Error>((socket, bound))
    };
    bind().with_context(|| format!("cannot listen on {address}, name another address with --listen"))
}

fn listen(socket: TcpSocket, address: SocketAddr) -> Result<TcpListener> {
    socket.listen(BACKLOG).with_context(|| format!("cannot listen on {address}, name another with --listen"))
}
