//! What can be read off the photograph of a person: where they are, how they stand, what they wear.
//!
//! Sources: github.com/fashn-AI/fashn-vton-1.5 at 7c0f10a (Apache-2.0) for the order of the stages and every number;
//! YOLOX (arxiv.org/abs/2107.08430), DWPose (arxiv.org/abs/2307.15880) and SegFormer (arxiv.org/abs/2105.15203).

pub(crate) mod detect;
pub(crate) mod draw;
pub(crate) mod mask;
pub(crate) mod onnx;
pub(crate) mod parse;
pub(crate) mod pose;
mod raster;
pub(crate) mod segformer;
pub(crate) mod stage;

use candle_core::Device;
use kraftr_imaging::RgbImage;

use self::detect::Detector;
use self::parse::{LabelMap, Parser};
use self::pose::{Estimator, Pose};
use self::segformer::Config as ParserConfig;
use self::stage::{Missing, Stage};
use crate::ModelError;
use crate::registry::Files;

/// The networks that read photographs. One whose file is absent is missed by whoever needs it, not before.
pub(crate) struct Readers {
    detector: Result<Detector, Missing>,
    estimator: Result<Estimator, Missing>,
    parser: Result<Parser, Missing>,
}

impl Readers {
    /// Whatever of the three is among the files of a release; `device` is where the parser runs, the others run on the
    /// CPU.
    pub(crate) fn load(
        files: &Files<'_>,
        parser_config: &ParserConfig,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let [detector, estimator, parser] =
            [Stage::Detector, Stage::Pose, Stage::Parser].map(|stage| files.stage(stage));
        let detector = detector?.map(|weights| Detector::load(weights.name(), weights.bytes().to_vec()));
        let estimator = estimator?.map(|weights| Estimator::load(weights.name(), weights.bytes().to_vec()));
        let parser = parser?.map(|weights| Parser::load(parser_config, &weights, device));
        Ok(Self {
            detector: stage::settle(detector)?,
            estimator: stage::settle(estimator)?,
            parser: stage::settle(parser)?,
        })
    }

    /// None of them.
    pub(crate) fn none(release: &str) -> Self {
        let missing = |stage| Missing::Unnamed { stage, release: release.to_owned() };
        Self {
            detector: Err(missing(Stage::Detector)),
            estimator: Err(missing(Stage::Pose)),
            parser: Err(missing(Stage::Parser)),
        }
    }

    /// The pose of whoever fills most of the photograph.
    pub(crate) fn pose(&self, photograph: &RgbImage) -> Result<Pose, ModelError> {
        let (detector, estimator) = (there(&self.detector)?, there(&self.estimator)?);
        estimator.estimate(photograph, &detector.detect(photograph)?)
    }

    /// Whether there is a parser: why there is none otherwise.
    pub(crate) fn parses(&self) -> Result<(), ModelError> {
        there(&self.parser).map(drop)
    }

    /// What every pixel of the photograph shows.
    pub(crate) fn labels(&self, photograph: &RgbImage) -> Result<LabelMap, ModelError> {
        there(&self.parser)?.parse(photograph)
    }
}

fn there<T>(stage: &Result<T, Missing>) -> Result<&T, ModelError> {
    stage.as_ref().map_err(|missing| missing.clone().into())
}
