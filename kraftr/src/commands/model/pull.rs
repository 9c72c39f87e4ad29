//! `kraftr model pull`: files of releases into the weights folder.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use kraftr_models::Registry;
use kraftr_protocol::ReleaseManifest;
use kraftr_protocol::manifest::ManifestFile;
use kraftr_protocol::spec::releases_of;
use kraftr_scheduler::clock::SystemClock;
use kraftr_worker::pull::{Progress, Pulled, Puller};

use crate::config::pulling;
use crate::output::{self, Bytes};

/// Fetches what the named releases need, or what every release needs that says where it is.
pub(super) async fn run(
    registry: &Registry,
    releases: &[String],
    all: bool,
    from: Option<PathBuf>,
    environment: &[(OsString, OsString)],
) -> Result<()> {
    let manifests: Vec<&ReleaseManifest> = if all {
        registry.manifests().collect()
    } else {
        releases.iter().map(|name| registry.get(name).map(AsRef::as_ref)).collect::<Result<_, _>>()?
    };
    let anywhere = from.is_some();
    let puller = Puller::new(pulling::settings(environment, from), Arc::new(SystemClock))?;
    let mut refused = Vec::new();
    for manifest in manifests {
        // What only proves a release need not be anywhere, unlike what it is loaded from.
        let fetchable = |file: &&ManifestFile| {
            anywhere
                || file.source.is_some()
                || (!all && Registry::needed_to_load(manifest).any(|needed| needed == *file))
        };
        for file in manifest.files.iter().filter(fetchable) {
            match pull(&puller, registry, file).await {
                Ok(how) => output::line(format_args!("{}  {how}", file.name))?,
                // The others may work.
                Err(error) => refused.push(format!("{error:#}")),
            }
        }
        if manifest.files.is_empty() {
            output::line(format_args!("{} needs no files", manifest.name))?;
        }
    }
    if refused.is_empty() { Ok(()) } else { bail!(refused.join("\n")) }
}

/// Fetches what the releases of a worker need to be loaded, every release that names its sources where none is named;
/// and what the scenes take that these releases offer.
pub(crate) async fn missing(
    registry: &Registry,
    releases: Option<&[String]>,
    environment: &[(OsString, OsString)],
) -> Result<()> {
    let puller = Puller::new(pulling::settings(environment, None), Arc::new(SystemClock))?;
    for (release, files) in wanted(registry, releases) {
        for file in files {
            pull(&puller, registry, file).await.with_context(|| release.to_owned())?;
        }
    }
    Ok(())
}

/// The files that a worker of these releases is to have, by release. A scene that `releases` insists on is fetched
/// whatever its manifests say of sources; one that a release only offers, where that can be done.
fn wanted<'a>(
    registry: &'a Registry,
    releases: Option<&[String]>,
) -> BTreeMap<&'a str, Vec<&'a ManifestFile>> {
    let mut wanted: BTreeMap<&str, Vec<&ManifestFile>> = BTreeMap::new();
    for manifest in registry.manifests() {
        let named = releases.map(|releases| releases.iter().map(|name| releases_of(name)));
        let (serves, insists) = match named {
            Some(mut named) => (
                named.clone().any(|(release, _)| release == manifest.name),
                named.any(|(release, painter)| release == manifest.name && painter.is_some()),
            ),
            None => (
                manifest.task.is_rendered()
                    && Registry::needed_to_load(manifest).all(|file| file.source.is_some()),
                false,
            ),
        };
        if !serves {
            continue;
        }
        wanted.entry(&manifest.name).or_default().extend(Registry::needed_to_load(manifest));
        let painter = manifest.scene.as_ref().and_then(|scene| registry.get(scene).ok());
        let parser = manifest.file(ManifestFile::PARSER);
        if let Some((painter, parser)) = painter.zip(parser) {
            let files = || Registry::needed_to_load(painter).chain([parser]);
            let can_be = || files().all(|file| file.source.is_some() || registry.place(file).is_present());
            if insists || (registry.permit(painter).is_ok() && can_be()) {
                wanted.entry(&manifest.name).or_default().push(parser);
                wanted.entry(&painter.name).or_default().extend(Registry::needed_to_load(painter));
            } else {
                tracing::warn!(
                    release = manifest.name,
                    painter = painter.name,
                    "what its scenes take is not pulled"
                );
            }
        }
    }
    wanted
}

async fn pull(puller: &Puller, registry: &Registry, file: &ManifestFile) -> Result<&'static str> {
    if registry.place(file) == kraftr_models::Place::CompiledIn {
        return Ok("is compiled in");
    }
    let folder: &Path = registry.weights_folder().context("name a folder for the weights with --weights")?;
    let mut bar = Bytes::new(&file.name, file.bytes);
    let pulled = puller
        .pull(file, folder, &mut |progress| match progress {
            Progress::Waiting => bar.say("somebody else is pulling it: waiting"),
            Progress::Resumed(bytes) => bar.set(bytes),
            Progress::Bytes(bytes) => bar.add(bytes),
            Progress::Restarted => bar.set(0),
        })
        .await;
    bar.finish();
    Ok(match pulled? {
        Pulled::WasThere => "was there",
        Pulled::Fetched => "pulled, and its SHA-256 is right",
    })
}
