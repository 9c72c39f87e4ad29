//! From photographs to what the network is shown: pictures in its frame and drawings of poses.
//!
//! Source: github.com/fashn-AI/fashn-vton-1.5 at 7c0f10a, `pipeline.py`.

use candle_core::{Device, Result as TensorResult, Tensor};
use kraftr_imaging::{GrayImage, RgbImage};
use kraftr_protocol::{Category, GarmentPhoto};
use serde::{Deserialize, Serialize};

use super::agnostic;
use super::config::Config;
use crate::ModelError;
use crate::inputs::Role;
use crate::layers::patch;
use crate::person::parse::LabelMap;
use crate::person::stage::Stage;
use crate::person::{Readers, draw, segformer};
use crate::picture::{self, Placement};
use crate::scene::Subject;

/// How photographs are read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PrepareConfig {
    /// Whether the network is shown poses; one that was trained without sees "nobody" everywhere.
    pub(crate) poses: bool,
    /// Whether the person is shown as they are; else what the garment replaces is hidden, which needs a parser.
    pub(crate) segmentation_free: bool,
    /// Sizes of the network that parses people.
    pub(crate) parser: segformer::Config,
}

impl Default for PrepareConfig {
    fn default() -> Self {
        Self { poses: true, segmentation_free: true, parser: segformer::Config::default() }
    }
}

impl PrepareConfig {
    /// Roles of the files that a garment that somebody wears needs: what is not the garment is hidden where the network
    /// would take it for the person's.
    pub(crate) fn worn_readers(&self) -> Vec<&'static str> {
        self.poses.then(|| Stage::Parser.role()).into_iter().collect()
    }

    /// Roles of the files that every render needs.
    pub(crate) fn readers(&self) -> Vec<&'static str> {
        let poses = self.poses.then_some([Stage::Detector, Stage::Pose]).into_iter().flatten();
        let parser = (!self.segmentation_free).then_some(Stage::Parser);
        poses.chain(parser).map(Stage::role).collect()
    }

    /// Puts it into the `config` table of a manifest that every render does without the networks that read photographs.
    pub(crate) fn leave_out_readers(config: &mut toml::Table) {
        config.insert("poses".to_owned(), false.into());
        config.insert("segmentation_free".to_owned(), true.into());
    }
}

/// Reads photographs for one network.
pub(crate) struct Preparation {
    frame: [u32; 2],
    config: PrepareConfig,
    readers: Readers,
}

/// What was read off one photograph.
pub(crate) struct Reading {
    /// The photograph in the network's frame.
    framed: RgbImage,
    placement: Placement,
    /// The pose in the same place; nobody's is no drawing at all.
    drawing: Option<GrayImage>,
    /// Where a part of it is hidden, which depends on the category: the photograph and its classes.
    parsed: Option<(RgbImage, LabelMap)>,
}

impl Preparation {
    /// Whether a subject can be [found](Self::subject): why not otherwise.
    pub(crate) fn finds_subjects(&self) -> Result<(), ModelError> {
        self.readers.parses()
    }

    /// What of a picture is the person in it.
    pub(crate) fn subject(&self, picture: RgbImage) -> Result<Subject, ModelError> {
        let labels = self.readers.labels(&picture)?;
        Subject::cut(picture, &labels)
    }

    pub(crate) fn new(config: &Config, prepare: PrepareConfig, readers: Readers) -> Self {
        let [height, width] = config.input_shape.map(|side| side as u32);
        Self { frame: [width, height], config: prepare, readers }
    }

    /// Runs whatever networks the photograph's role asks for.
    pub(crate) fn read(&self, photograph: &RgbImage, role: Role) -> Result<Reading, ModelError> {
        let photograph = picture::shrink(photograph, self.frame[0].max(self.frame[1]))?;
        let (somebody, hidden) = match role {
            Role::Person => (true, !self.config.segmentation_free),
            Role::Garment(GarmentPhoto::Model) => (true, self.config.poses),
            Role::Garment(GarmentPhoto::FlatLay) => (false, false),
        };
        let drawing = if somebody && self.config.poses {
            let pose = self.readers.pose(&photograph)?;
            let drawing = draw::draw(&[pose], photograph.width(), photograph.height());
            Some(picture::fit_drawing(&drawing, self.frame)?)
        } else {
            None
        };
        let labels = hidden.then(|| self.readers.labels(&photograph)).transpose()?;
        let (framed, placement) = picture::fit(&photograph, self.frame)?;
        let parsed = labels.map(|labels| (photograph.into_owned(), labels));
        Ok(Reading { framed, placement, drawing, parsed })
    }
}

impl Reading {
    /// Where the photograph lies in the frame.
    pub(crate) fn placement(&self) -> Placement {
        self.placement
    }

    /// Bytes that it takes in memory.
    pub(crate) fn bytes(&self) -> usize {
        let parsed = self.parsed.as_ref().map_or(0, |(photograph, labels)| photograph.len() + labels.bytes());
        self.framed.len() + self.drawing.as_ref().map_or(0, |drawing| drawing.len()) + parsed
    }

    /// Patches of the person, `[1, n, patch]`, without what a garment of that category replaces where it is hidden.
    pub(crate) fn person(
        &self,
        category: Category,
        config: &Config,
        device: &Device,
    ) -> Result<Tensor, ModelError> {
        self.patches(category, agnostic::person, config, device)
    }

    /// Patches of the garment, `[1, n, patch]`, alone where somebody wears it.
    pub(crate) fn garment(
        &self,
        category: Category,
        config: &Config,
        device: &Device,
    ) -> Result<Tensor, ModelError> {
        self.patches(category, agnostic::garment, config, device)
    }

    fn patches(
        &self,
        category: Category,
        hide: impl Fn(&RgbImage, &LabelMap, Category) -> RgbImage,
        config: &Config,
        device: &Device,
    ) -> Result<Tensor, ModelError> {
        let drawing = self.drawing.as_ref();
        Ok(match &self.parsed {
            Some((photograph, labels)) => {
                let shown = hide(photograph, labels, category);
                let (framed, _) = picture::fit(&shown, [self.framed.width(), self.framed.height()])?;
                patches(config, &framed, drawing, device)?
            }
            None => patches(config, &self.framed, drawing, device)?,
        })
    }
}

/// The network's number of a category; 0 is none.
pub(crate) fn category_number(category: Category) -> u32 {
    match category {
        Category::Tops => 1,
        Category::Bottoms => 2,
        Category::OnePieces => 3,
    }
}

/// Patches of a picture that fills the frame and of its pose; nobody's is black, -1 everywhere.
fn patches(
    config: &Config,
    framed: &RgbImage,
    drawing: Option<&GrayImage>,
    device: &Device,
) -> TensorResult<Tensor> {
    let [height, width] = config.input_shape;
    let mut planes = picture::to_planes(framed);
    match drawing {
        Some(drawing) => planes.extend(drawing.iter().map(|grey| picture::from_byte(*grey))),
        None => planes.resize(planes.len() + width * height, -1.0),
    }
    patch::cut(&Tensor::from_vec(planes, (1, 4, height, width), device)?, config.patch_size)
}
