//! What a worker is told when it starts.

use std::collections::BTreeSet;
use std::time::Duration;

use kraftr_models::Registry;
use kraftr_protocol::spec::{releases_of, with_scene};
use kraftr_protocol::{Class, Lane, WorkerId, limits};

/// What a worker is told when it starts. [`WorkerConfig::new`] fills in what most workers want.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Who it is: new at every start.
    pub id: WorkerId,
    /// Its pool: workers of one hardware class.
    pub pool: String,
    /// Where its models run: `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// Renders it holds at once. More than `max_batch` keeps the engine busy while others are
    /// fetched and uploaded.
    pub slots: u32,
    /// Releases it loads and takes jobs for; empty means each one of the registry whose weights are
    /// there. It takes renders with scenes too where a release's painter is there; `release+painter` insists on that.
    pub releases: Vec<String>,
    /// How long running renders may go on once it drains; then they are handed back.
    pub grace: Duration,
    /// Samples in one forward pass.
    pub max_batch: usize,
    /// Steps between two previews of a sample; 0 makes none.
    pub preview_every: u32,
    /// How often it renews its leases; well under a third of the lease that grants give.
    pub heartbeat_every: Duration,
}

impl WorkerConfig {
    /// Renders held at once unless told otherwise: one in the engine, one on its way in or out.
    pub const SLOTS: u32 = 2;
    /// Most renders that may be held at once.
    pub const SLOTS_MAX: u32 = 256;
    /// Samples in one forward pass unless told otherwise.
    pub const MAX_BATCH: usize = 4;
    /// Steps between two previews unless told otherwise.
    pub const PREVIEW_EVERY: u32 = 4;
    /// How long a drain may take unless told otherwise: less than the 30 s that supervisors give.
    pub const GRACE: Duration = Duration::from_secs(20);

    /// A worker of `pool` on the CPU with every release there is.
    pub fn new(id: WorkerId, pool: impl Into<String>) -> Self {
        Self {
            id,
            pool: pool.into(),
            device: "cpu".to_owned(),
            slots: Self::SLOTS,
            releases: Vec::new(),
            grace: Self::GRACE,
            max_batch: Self::MAX_BATCH,
            preview_every: Self::PREVIEW_EVERY,
            heartbeat_every: limits::HEARTBEAT_EVERY,
        }
    }

    /// Names the releases that are meant, of the tasks that renders ask for, or says everything that is wrong.
    pub(crate) fn resolve(&mut self, registry: &Registry) -> Result<(), Vec<String>> {
        if self.releases.is_empty() {
            let served = registry.present().filter(|manifest| manifest.task.is_rendered());
            self.releases = served.map(|manifest| manifest.name.clone()).collect();
        }
        let painted: Vec<String> =
            self.releases.iter().filter_map(|release| scenes_of(registry, release)).collect();
        self.releases.extend(painted);
        // One that is named for its scenes serves renders without them too.
        let plain: Vec<String> = self.releases.iter().map(|name| releases_of(name).0.to_owned()).collect();
        self.releases.extend(plain);
        let mut seen = BTreeSet::new();
        self.releases.retain(|name| seen.insert(name.clone()));
        let mistakes: Vec<String> = [
            (self.pool.is_empty(), "pool: must not be empty".to_owned()),
            (
                !(1..=Self::SLOTS_MAX).contains(&self.slots),
                format!("slots: must be 1 to {}", Self::SLOTS_MAX),
            ),
            (self.max_batch == 0, "max_batch: must be at least 1".to_owned()),
            (self.heartbeat_every.is_zero(), "heartbeat_every: must not be zero".to_owned()),
            (self.releases.is_empty(), "releases: the registry has none whose weights are there".to_owned()),
        ]
        .into_iter()
        .filter_map(|(wrong, mistake)| wrong.then_some(mistake))
        .chain(self.releases.iter().filter_map(|release| scene_mistake(registry, release)))
        .chain(self.releases.iter().filter_map(|release| {
            let task = registry.get(release).ok()?.task;
            (!task.is_rendered())
                .then(|| format!("releases: {release} is for {task}, which no render asks for; leave it out"))
        }))
        .collect();
        if mistakes.is_empty() { Ok(()) } else { Err(mistakes) }
    }

    /// Where its jobs come from at first.
    pub(crate) fn lanes(&self) -> Vec<Lane> {
        lanes(&self.pool, &self.releases)
    }
}

/// The lane of a release's scenes, where this machine has all that they take; the log says what is missing otherwise.
fn scenes_of(registry: &Registry, release: &str) -> Option<String> {
    let manifest = registry.get(release).ok()?;
    match registry.painter(manifest) {
        Ok(painter) => painter.map(|painter| with_scene(release, &painter.name)),
        Err(error) => {
            tracing::warn!(release, %error, "takes no scenes");
            None
        }
    }
}

/// What is wrong about a name with a painter in it.
fn scene_mistake(registry: &Registry, name: &str) -> Option<String> {
    let (release, painter) = releases_of(name);
    let painter = painter?;
    let said = match registry.get(release) {
        Ok(manifest) if manifest.scene.as_deref() != Some(painter) => match &manifest.scene {
            Some(scene) => format!("{scene} paints the scenes of {release}: name {release}+{scene}"),
            None => format!("{release} takes no scenes: leave +{painter} out"),
        },
        Ok(manifest) => registry.painter(manifest).err()?.to_string(),
        Err(error) => error.to_string(),
    };
    Some(format!("releases: {name}: {said}"))
}

/// Where jobs of these releases come from, the urgent ones of every release first.
pub(crate) fn lanes(pool: &str, releases: &[String]) -> Vec<Lane> {
    let lane = |class, release: &String| Lane { pool: pool.to_owned(), release: release.clone(), class };
    Class::ALL
        .into_iter()
        .flat_map(|class| releases.iter().map(move |release| lane(class, release)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> WorkerConfig {
        WorkerConfig::new("wrk_00000000000000000000000001".parse().unwrap(), "cpu")
    }

    #[test]
    fn no_release_named_means_all_that_are_there() {
        let mut config = config();
        config.resolve(&Registry::bundled()).unwrap();
        assert_eq!(config.releases, ["demo-tryon", "noop"]);
        let lanes: Vec<String> = config.lanes().iter().map(ToString::to_string).collect();
        assert_eq!(
            lanes,
            ["cpu.demo-tryon.interactive", "cpu.noop.interactive", "cpu.demo-tryon.batch", "cpu.noop.batch"]
        );
    }

    #[test]
    fn mistakes_are_listed_at_once() {
        let broken = WorkerConfig {
            pool: String::new(),
            slots: 0,
            max_batch: 0,
            heartbeat_every: Duration::ZERO,
            ..config()
        };
        let mistakes = broken.clone().resolve(&Registry::bundled()).unwrap_err();
        assert_eq!(mistakes.len(), 4, "{mistakes:?}");
    }
}
