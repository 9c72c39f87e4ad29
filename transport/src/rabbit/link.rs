//! The connection, kept by one supervisor.
//!
//! The client library's own recovery does not come back after every broker restart, so there is none: a
//! connection that breaks is dropped with all its channels, and a new one is made after a pause of full
//! jitter (a random part of a bound that doubles), so that a fleet does not come back all at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties};
use rand::TryRng as _;
use rand::rngs::SysRng;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::topology::Topology;
use crate::TransportError;

/// Seconds after which a silent connection counts as lost.
const HEARTBEAT: u16 = 10;
/// How long one attempt to connect and declare may take.
const ATTEMPT_MAX: Duration = Duration::from_secs(10);
/// The pause after the first failure is at most this long.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// No pause is longer.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// How often the connection is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Messages since the start, over all connections.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) published: AtomicU64,
    pub(super) delivered: AtomicU64,
}

impl Counters {
    pub(super) fn published(&self) {
        self.published.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn delivered(&self) {
        self.delivered.fetch_add(1, Ordering::Relaxed);
    }
}

/// One connection; the number tells it from those before it.
pub(super) struct Link {
    pub(super) number: u64,
    pub(super) counters: Arc<Counters>,
    connection: Connection,
}

impl Link {
    pub(super) async fn channel(&self) -> lapin::Result<Channel> {
        self.connection.create_channel().await
    }
}

/// The link that stands, now and later.
pub(super) struct Links {
    current: watch::Receiver<Option<Arc<Link>>>,
    pub(super) counters: Arc<Counters>,
    pub(super) closed: CancellationToken,
    supervisor: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Links {
    /// Starts the supervisor; it connects in the background.
    pub(super) fn open(url: &str, topology: Arc<Topology>) -> Result<Arc<Self>, TransportError> {
        let mut uri: AMQPUri = url.parse().map_err(|reason| TransportError::Unavailable {
            reason: format!("the broker's URL: {reason}"),
        })?;
        uri.query.heartbeat.get_or_insert(HEARTBEAT);
        let (sender, current) = watch::channel(None);
        let closed = CancellationToken::new();
        let counters = Arc::<Counters>::default();
        let supervisor = supervise(uri, topology, sender, Arc::clone(&counters), closed.clone());
        let supervisor = tokio::spawn(supervisor);
        Ok(Arc::new(Self {
            current,
            counters,
            closed,
            supervisor: tokio::sync::Mutex::new(Some(supervisor)),
        }))
    }

    /// Waits for a link at most that long.
    pub(super) async fn wait(&self, patience: Duration) -> Result<Arc<Link>, TransportError> {
        let unavailable = || TransportError::Unavailable {
            reason: format!("no connection to the broker within {} ms", patience.as_millis()),
        };
        tokio::time::timeout(patience, self.standing()).await.map_err(|_| unavailable())?
    }

    /// The link, once one stands.
    pub(super) async fn standing(&self) -> Result<Arc<Link>, TransportError> {
        let mut current = self.current.clone();
        tokio::select! {
            biased;
            () = self.closed.cancelled() => Err(TransportError::Closed),
            link = current.wait_for(Option::is_some) => match link {
                Ok(link) => link.clone().ok_or(TransportError::Closed),
                Err(_) => Err(TransportError::Closed),
            }
        }
    }

    /// Resolves when that link is gone.
    pub(super) async fn gone(&self, number: u64) {
        let mut current = self.current.clone();
        let other = |link: &Option<Arc<Link>>| link.as_ref().is_none_or(|link| link.number != number);
        // Without a supervisor there is no link any more either.
        current.wait_for(other).await.map(drop).ok();
    }

    pub(super) fn open_or_closed(&self) -> Result<(), TransportError> {
        if self.closed.is_cancelled() { Err(TransportError::Closed) } else { Ok(()) }
    }

    pub(super) fn stop(&self) {
        self.closed.cancel();
    }

    pub(super) async fn close(&self) {
        self.stop();
        if let Some(supervisor) = self.supervisor.lock().await.take()
            && let Err(crash) = supervisor.await
        {
            tracing::error!(%crash, "the broker connection's supervisor crashed");
        }
    }
}

async fn supervise(
    uri: AMQPUri,
    topology: Arc<Topology>,
    current: watch::Sender<Option<Arc<Link>>>,
    counters: Arc<Counters>,
    closed: CancellationToken,
) {
    let mut failures = 0u32;
    let mut number = 0;
    loop {
        number += 1;
        let connected = tokio::select! {
            () = closed.cancelled() => return,
            connected = connect(&uri, &topology, number, &counters) => connected,
        };
        match connected {
            Ok(link) => {
                tracing::info!(broker.connection = number, "connected to the broker");
                failures = 0;
                let link = Arc::new(link);
                current.send_replace(Some(Arc::clone(&link)));
                tokio::select! {
                    () = closed.cancelled() => {
                        current.send_replace(None);
                        hang_up(&link).await;
                        return;
                    }
                    () = lost(&link) => {}
                }
                current.send_replace(None);
                tracing::warn!(broker.connection = number, "lost the connection to the broker");
            }
            Err(error) => {
                failures += 1;
                tracing::warn!(error, failures, "the broker cannot be reached");
            }
        }
        tokio::select! {
            () = closed.cancelled() => return,
            () = tokio::time::sleep(pause(failures)) => {}
        }
    }
}

async fn connect(
    uri: &AMQPUri,
    topology: &Topology,
    number: u64,
    counters: &Arc<Counters>,
) -> Result<Link, String> {
    let attempt = async {
        let name = format!("kraftr {}", std::process::id());
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let connection = Connection::connect_uri(uri.clone(), properties).await?;
        let channel = connection.create_channel().await?;
        topology.declare(&channel).await?;
        channel.close(200, "declared".into()).await?;
        Ok::<_, lapin::Error>(Link { number, counters: Arc::clone(counters), connection })
    };
    match tokio::time::timeout(ATTEMPT_MAX, attempt).await {
        Ok(Ok(link)) => Ok(link),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("it does not answer".to_owned()),
    }
}

/// Resolves when the connection is broken; says so when the broker takes nothing for a while.
async fn lost(link: &Link) {
    let mut blocked = false;
    while link.connection.status().connected() {
        let now = link.connection.status().blocked();
        if now != blocked {
            blocked = now;
            tracing::warn!(broker.blocked = blocked, "the broker's memory or disk alarm changed");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn hang_up(link: &Link) {
    let closing = link.connection.close(200, "bye".into());
    match tokio::time::timeout(ATTEMPT_MAX, closing).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "the broker was gone already"),
        Err(_) => tracing::debug!("the broker did not say goodbye"),
    }
}

/// A random part of a bound that doubles with every failure.
fn pause(failures: u32) -> Duration {
    let bound = BACKOFF_MIN.saturating_mul(1 << failures.min(10)).min(BACKOFF_MAX);
    // Without randomness the middle is as good.
    let random = SysRng.try_next_u32().unwrap_or(u32::MAX / 2);
    bound.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_differ() {
        assert!((0..100).all(|_| pause(0) <= BACKOFF_MIN && pause(40) <= BACKOFF_MAX));
        let pauses: std::collections::BTreeSet<Duration> = (0..20).map(|_| pause(9)).collect();
        assert!(pauses.len() > 10);
    }
}
