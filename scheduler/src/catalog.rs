//! What can be rendered: public model names and the releases behind them.

use kraftr_protocol::manifest::Task;
use kraftr_protocol::{Credits, GpuMillis, Quality, ReleaseManifest};

/// The models on offer, the default first.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    models: Vec<Model>,
    /// Taken when asked for by name, and shown to nobody.
    unlisted: Vec<Model>,
}

/// A public name and the release that it leads to.
#[derive(Debug, Clone)]
pub struct Model {
    /// The release.
    pub release: ReleaseManifest,
}

impl Catalog {
    /// Offers the try-on releases among `manifests`, in their order, each under its own name. A name
    /// that comes again is ignored.
    pub fn new(manifests: Vec<ReleaseManifest>) -> Self {
        let mut models: Vec<Model> = Vec::new();
        for release in manifests {
            let taken = models.iter().any(|model| model.id() == release.name);
            if release.task == Task::TryOn && !taken {
                models.push(Model { release });
            }
        }
        Self { models, unlisted: Vec::new() }
    }

    /// Takes renders of the empty model among `manifests` as well, for load tests. It is on no list.
    #[must_use]
    pub fn with_noop<'a>(mut self, manifests: impl IntoIterator<Item = &'a ReleaseManifest>) -> Self {
        let noop = manifests.into_iter().filter(|release| release.task == Task::Noop).cloned();
        self.unlisted.extend(noop.map(|release| Model { release }));
        self
    }

    /// Every model, the default first.
    pub fn models(&self) -> &[Model] {
        &self.models
    }

    /// The model of that public name, listed or not.
    pub fn get(&self, id: &str) -> Option<&Model> {
        self.models.iter().chain(&self.unlisted).find(|model| model.id() == id)
    }
}

impl Model {
    /// The public name.
    pub fn id(&self) -> &str {
        &self.release.name
    }

    /// What `samples` images cost.
    pub fn price(&self, samples: u32) -> Credits {
        Credits(self.release.price.0 * i64::from(samples))
    }

    /// Denoise steps of a quality.
    pub fn steps(&self, quality: Quality) -> u32 {
        self.release.quality(quality).steps
    }

    /// Device time that `samples` images of `steps` steps at `quality` are expected to take: as many passes through
    /// the network as the manifest says, against those at balanced quality.
    pub fn estimate(&self, samples: u32, quality: Quality, steps: u32) -> GpuMillis {
        let passes = |quality, steps| self.release.evaluations(quality, steps);
        let balanced = passes(Quality::Balanced, self.steps(Quality::Balanced));
        let images = f64::from(samples) * passes(quality, steps) / balanced;
        GpuMillis(((self.release.device_time_ms.0 as f64 * images).round() as u64).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(name: &str, task: &str) -> ReleaseManifest {
        let text = format!(
            "name = '{name}'\ntitle = 'T'\ntask = '{task}'\narchitecture = 'a'\nsize = [96, 144]\n\
             categories = ['tops']\nprice = 2\ndevice_time_ms = 1000\nlicence = 'MIT'\n\
             [defaults]\nguidance = 1.5\n[quality.fast]\nsteps = 5\nevaluations = 6\n\
             [quality.balanced]\nsteps = 10\n[quality.best]\nsteps = 20\n\
             [limits]\nsteps_min = 1\nsteps_max = 50\nsamples_max = 4\n"
        );
        ReleaseManifest::parse(name, &text).unwrap()
    }

    #[test]
    fn only_try_on_is_on_offer() {
        let catalog = Catalog::new(vec![
            manifest("noop", "noop"),
            manifest("one", "try-on"),
            manifest("two", "try-on"),
            manifest("painter", "text-to-image"),
            manifest("one", "try-on"),
        ]);
        let names: Vec<_> = catalog.models().iter().map(Model::id).collect();
        assert_eq!(names, ["one", "two"]);
        assert!(catalog.get("noop").is_none() && catalog.get("painter").is_none());
    }

    #[test]
    fn the_empty_model_is_taken_where_it_is_offered_and_never_listed() {
        let manifests = [manifest("noop", "noop"), manifest("one", "try-on")];
        let catalog = Catalog::new(manifests.to_vec()).with_noop(&manifests);
        assert_eq!(catalog.models().iter().map(Model::id).collect::<Vec<_>>(), ["one"]);
        assert_eq!(catalog.get("noop").map(Model::id), Some("noop"));
    }

    #[test]
    fn price_and_time_follow_images_quality_and_steps() {
        let catalog = Catalog::new(vec![manifest("one", "try-on")]);
        let model = catalog.get("one").unwrap();
        assert_eq!(model.price(3), Credits(6));
        let millis = |samples, quality, steps| model.estimate(samples, quality, steps).0;
        assert_eq!(millis(1, Quality::Balanced, 10), 1_000);
        assert_eq!(millis(2, Quality::Best, 20), 4_000);
        assert_eq!(millis(1, Quality::Fast, 5), 300, "six passes against twenty");
        assert_eq!(millis(1, Quality::Fast, 10), 600);
    }
}
