//! What can be rendered: public model names and the releases behind them.

use kraftr_protocol::manifest::Task;
use kraftr_protocol::spec::{Prompt, SceneSpec};
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
    /// The release that paints scenes behind its people, where it names one that is there too.
    pub painter: Option<ReleaseManifest>,
}

impl Catalog {
    /// Offers the try-on releases among `manifests`, in their order, each under its own name. A name
    /// that comes again is ignored. One whose scene release is among them too takes scenes.
    pub fn new(manifests: &[ReleaseManifest]) -> Self {
        let painter = |name: &String| {
            let mut painters = manifests.iter().filter(|release| release.task == Task::TextToImage);
            painters.find(|release| release.name == *name).cloned()
        };
        let mut models: Vec<Model> = Vec::new();
        for release in manifests {
            let taken = models.iter().any(|model| model.id() == release.name);
            if release.task == Task::TryOn && !taken {
                let painter = release.scene.as_ref().and_then(painter);
                models.push(Model { release: release.clone(), painter });
            }
        }
        Self { models, unlisted: Vec::new() }
    }

    /// Takes renders of the empty model among `manifests` as well, for load tests. It is on no list.
    #[must_use]
    pub fn with_noop<'a>(mut self, manifests: impl IntoIterator<Item = &'a ReleaseManifest>) -> Self {
        let noop = manifests.into_iter().filter(|release| release.task == Task::Noop).cloned();
        self.unlisted.extend(noop.map(|release| Model { release, painter: None }));
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

    /// What `samples` images cost, each with its scene where there is one.
    pub fn price(&self, samples: u32, scene: Option<&SceneSpec>) -> Credits {
        let painting = self.painting(scene).map_or(0, |(painter, _)| painter.price.0);
        Credits((self.release.price.0 + painting) * i64::from(samples))
    }

    /// A scene after `prompt`; `None` unless the model takes scenes.
    pub fn scene(&self, prompt: Prompt, quality: Quality) -> Option<SceneSpec> {
        let painter = self.painter.as_ref()?;
        Some(SceneSpec {
            release: painter.name.clone(),
            prompt,
            steps: painter.quality(quality).steps,
            guidance: painter.defaults.guidance,
        })
    }

    /// Denoise steps of a quality.
    pub fn steps(&self, quality: Quality) -> u32 {
        self.release.quality(quality).steps
    }

    /// Device time that `samples` images of `steps` steps at `quality` are expected to take, each with its scene where
    /// there is one.
    pub fn estimate(
        &self,
        samples: u32,
        quality: Quality,
        steps: u32,
        scene: Option<&SceneSpec>,
    ) -> GpuMillis {
        let painting = self.painting(scene);
        let painting = painting.map_or(0.0, |(painter, scene)| millis(painter, quality, scene.steps));
        let image = millis(&self.release, quality, steps) + painting;
        GpuMillis(((f64::from(samples) * image).round() as u64).max(1))
    }

    fn painting<'a>(&'a self, scene: Option<&'a SceneSpec>) -> Option<(&'a ReleaseManifest, &'a SceneSpec)> {
        self.painter.as_ref().zip(scene)
    }
}

/// Time of one image: as many passes through the network as the manifest says, against those at balanced quality.
fn millis(release: &ReleaseManifest, quality: Quality, steps: u32) -> f64 {
    let balanced = release.quality(Quality::Balanced).steps;
    let passes = release.evaluations(quality, steps);
    release.device_time_ms.0 as f64 * passes / release.evaluations(Quality::Balanced, balanced)
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
        let catalog = Catalog::new(&[
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
        let catalog = Catalog::new(&manifests).with_noop(&manifests);
        assert_eq!(catalog.models().iter().map(Model::id).collect::<Vec<_>>(), ["one"]);
        assert_eq!(catalog.get("noop").map(Model::id), Some("noop"));
    }

    #[test]
    fn price_and_time_follow_images_quality_and_steps() {
        let catalog = Catalog::new(&[manifest("one", "try-on")]);
        let model = catalog.get("one").unwrap();
        assert_eq!(model.price(3, None), Credits(6));
        let millis = |samples, quality, steps| model.estimate(samples, quality, steps, None).0;
        assert_eq!(millis(1, Quality::Balanced, 10), 1_000);
        assert_eq!(millis(2, Quality::Best, 20), 4_000);
        assert_eq!(millis(1, Quality::Fast, 5), 300, "six passes against twenty");
        assert_eq!(millis(1, Quality::Fast, 10), 600);
        assert!(model.scene(Prompt::new("a beach"), Quality::Fast).is_none());
    }

    #[test]
    fn a_scene_is_offered_where_its_release_is_and_costs_what_that_costs() {
        let with_scene = |name: &str| {
            let scene = Some(name.to_owned());
            ReleaseManifest { scene, ..manifest("one", "try-on") }
        };
        let painter = manifest("painter", "text-to-image");
        let offered = |release: ReleaseManifest, other: Option<&ReleaseManifest>| {
            let all: Vec<_> = [release].into_iter().chain(other.cloned()).collect();
            Catalog::new(&all).get("one").unwrap().clone()
        };
        assert!(offered(with_scene("painter"), None).painter.is_none(), "it is not there");
        let other = manifest("two", "try-on");
        assert!(offered(with_scene("two"), Some(&other)).painter.is_none(), "it paints nothing");
        assert!(offered(manifest("one", "try-on"), Some(&painter)).painter.is_none(), "it is not named");

        let model = offered(with_scene("painter"), Some(&painter));
        let scene = model.scene(Prompt::new("a beach"), Quality::Fast).unwrap();
        assert_eq!((scene.release.as_str(), scene.steps, scene.guidance), ("painter", 5, 1.5));
        assert_eq!(model.price(3, Some(&scene)), Credits(12));
        assert_eq!(model.estimate(2, Quality::Fast, 5, Some(&scene)), GpuMillis(2 * (300 + 300)));
        assert_eq!(model.price(3, None), Credits(6));
        assert_eq!(model.estimate(2, Quality::Fast, 5, None), GpuMillis(600));
    }
}
