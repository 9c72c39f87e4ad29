//! Proof that photographs become what the reference makes of them: recorded pictures and numbers against ours.
//!
//! A fixture is a folder with `manifest.json`, which lists cases of every kind (`schedules`, `poses`, `resize_pad`,
//! `agnostic`, `person`; a kind may be absent) and names the files of each.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use kraftr_imaging::{GrayImage, Limits, RgbImage, decode};
use kraftr_protocol::Category;
use serde::{Deserialize, Serialize};

use super::relative_error;
use crate::ModelError;
use crate::fashn_vton::agnostic;
use crate::person::detect::Letterbox;
use crate::person::draw;
use crate::person::onnx::Network;
use crate::person::parse::LabelMap;
use crate::person::pose::{self, BODY, Crop, Found, Keypoint, Point, Pose};
use crate::picture;

/// A pixel is right within so many levels: rasterisers differ.
const LEVELS: u8 = 2;
/// Share of pixels that must be right.
const RIGHT_MIN: f64 = 0.995;
/// Mean difference of all pixels, in levels.
const MEAN_MAX: f64 = 0.5;
/// Largest difference of a number, relative to the largest recorded one.
const NUMBER_MAX: f64 = 1e-4;

/// One recorded result against ours.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PreparationCheck {
    /// What was recorded.
    pub name: String,
    /// Share of values that are right: pixels within two levels, numbers within 1e-4 of the largest.
    pub right: f64,
    /// Mean difference: of pixels in levels, of numbers relative to the largest.
    pub mean: f64,
    /// Whether that is within tolerance.
    pub ok: bool,
}

/// Every recorded result of a folder.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PreparationReport {
    /// In the order of the manifest's kinds.
    pub checks: Vec<PreparationCheck>,
    /// Whether all are within tolerance.
    pub ok: bool,
}

/// What one pass of an ONNX network took here.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PassReport {
    /// Seconds until it could compute.
    pub load_s: f64,
    /// Seconds of one pass: the median of several.
    pub pass_s: f64,
    /// Sum of the absolute values of the first output, to compare with another runtime's.
    pub checksum: f64,
}

/// Times a network on a picture `[1, 3, height, width]` of numbers that `benches/baselines/onnx_person.py` makes as well.
pub fn time(network: &Path, [height, width]: [usize; 2], runs: usize) -> Result<PassReport, ModelError> {
    let bytes = fs::read(network).map_err(|source| ModelError::Read { path: network.to_owned(), source })?;
    let started = Instant::now();
    let network = Network::load(&network.display().to_string(), bytes)?;
    let load_s = started.elapsed().as_secs_f64();
    let wave = || (0..3 * height * width).map(|n| ((n % 1013) as f32 / 1013.0 - 0.5) * 2.0).collect();
    let outputs = network.run(wave(), [1, 3, height, width])?;
    let checksum = outputs[0].values.iter().map(|value| f64::from(value.abs())).sum();
    let mut seconds = Vec::with_capacity(runs);
    for _ in 0..runs {
        let input = wave();
        let started = Instant::now();
        network.run(input, [1, 3, height, width])?;
        seconds.push(started.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    let pass_s = seconds.get(seconds.len() / 2).copied().unwrap_or_default();
    Ok(PassReport { load_s, pass_s, checksum })
}

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    schedules: Vec<Schedule>,
    #[serde(default)]
    poses: Vec<PoseCase>,
    #[serde(default)]
    resize_pad: Vec<ResizeCase>,
    #[serde(default)]
    agnostic: Vec<AgnosticCase>,
    person: Option<PersonCase>,
}

#[derive(Deserialize)]
struct Schedule {
    steps: u32,
    mu: f64,
    timesteps: Vec<f64>,
}

#[derive(Deserialize)]
struct PoseCase {
    height: u32,
    width: u32,
    candidate: Vec<[f64; 2]>,
    subset: Vec<Vec<f64>>,
    #[serde(default)]
    hands: Vec<Vec<[f64; 2]>>,
    #[serde(default)]
    faces: Vec<Vec<[f64; 2]>>,
    drawing: String,
}

#[derive(Deserialize)]
struct ResizeCase {
    input: String,
    target: Target,
    output: String,
    padding_left_top_right_bottom: [u32; 4],
    unpadded: String,
    first_channel_nearest_exact: String,
    pre_resize_fit_box: u32,
    pre_resized: String,
}

#[derive(Deserialize)]
struct Target {
    width: u32,
    height: u32,
}

#[derive(Deserialize)]
struct AgnosticCase {
    category: Category,
    image: String,
    labels: String,
    agnostic: String,
    garment: String,
}

#[derive(Deserialize)]
struct PersonCase {
    image: String,
    tensors: String,
    detector_ratio: f64,
}

/// Prepares the inputs that `manifest` lists and compares with what it recorded.
pub fn check(manifest: &Path) -> Result<PreparationReport, ModelError> {
    let text = fs::read_to_string(manifest)
        .map_err(|source| ModelError::Read { path: manifest.to_owned(), source })?;
    let cases: Manifest = serde_json::from_str(&text).map_err(|error| bad(manifest, error.to_string()))?;
    let mut run = Run { folder: manifest.parent().unwrap_or(Path::new(".")), checks: Vec::new() };
    for Schedule { steps, mu, timesteps } in &cases.schedules {
        let ours = crate::sampler::rectified_flow::schedule(*steps, *mu);
        let ours: Vec<f64> = ours.into_iter().map(f64::from).collect();
        run.numbers(&format!("schedule of {steps} steps, mu {mu}"), &ours, timesteps);
    }
    for case in &cases.poses {
        run.pose(case)?;
    }
    for case in &cases.resize_pad {
        run.resize(case)?;
    }
    for case in &cases.agnostic {
        run.agnostic(case)?;
    }
    if let Some(case) = &cases.person {
        run.person(case)?;
    }
    let checks = run.checks;
    Ok(PreparationReport { ok: checks.iter().all(|check| check.ok), checks })
}

fn bad(path: &Path, reason: impl Into<String>) -> ModelError {
    ModelError::Fixture { path: path.to_owned(), reason: reason.into() }
}

struct Run<'a> {
    folder: &'a Path,
    checks: Vec<PreparationCheck>,
}

impl Run<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn picture(&self, name: &str) -> Result<RgbImage, ModelError> {
        const ANY: Limits = Limits {
            bytes_max: 1 << 28,
            side_min: 1,
            side_max: 8_192,
            pixels_max: 1 << 26,
            aspect_max: 8_192,
        };
        let path = self.path(name);
        let bytes = fs::read(&path).map_err(|source| ModelError::Read { path: path.clone(), source })?;
        decode(&bytes, &ANY).map(|decoded| decoded.image).map_err(|error| bad(&path, error.to_string()))
    }

    /// A grey picture: decoding gives it three equal channels.
    fn grey(&self, name: &str) -> Result<GrayImage, ModelError> {
        Ok(first_channel(&self.picture(name)?))
    }

    fn pixels(&mut self, name: &str, ours: &[u8], recorded: &[u8]) {
        let same_size = ours.len() == recorded.len();
        let apart = || ours.iter().zip(recorded).map(|(ours, recorded)| ours.abs_diff(*recorded));
        let count = ours.len().max(1) as f64;
        let right = apart().filter(|apart| *apart <= LEVELS).count() as f64 / count;
        let mean = apart().map(u64::from).sum::<u64>() as f64 / count;
        let ok = same_size && right >= RIGHT_MIN && mean < MEAN_MAX;
        self.checks.push(PreparationCheck { name: name.to_owned(), right, mean, ok });
    }

    fn numbers(&mut self, name: &str, ours: &[f64], recorded: &[f64]) {
        let largest = recorded.iter().fold(f64::MIN_POSITIVE, |largest, value| largest.max(value.abs()));
        let apart = || ours.iter().zip(recorded).map(|(ours, recorded)| (ours - recorded).abs() / largest);
        let count = ours.len().max(1) as f64;
        let right = apart().filter(|apart| *apart <= NUMBER_MAX).count() as f64 / count;
        let mean = apart().sum::<f64>() / count;
        let ok = ours.len() == recorded.len()
            && apart().all(|apart| apart <= NUMBER_MAX)
            && relative_error(ours, recorded) <= NUMBER_MAX;
        self.checks.push(PreparationCheck { name: name.to_owned(), right, mean, ok });
    }

    fn pose(&mut self, case: &PoseCase) -> Result<(), ModelError> {
        let people = case.people().ok_or_else(|| bad(&self.path(&case.drawing), "its points are no pose"))?;
        let drawing = draw::draw(&people, case.width, case.height);
        let recorded = self.grey(&case.drawing)?;
        self.pixels(&case.drawing, &drawing, &recorded);
        Ok(())
    }

    fn resize(&mut self, case: &ResizeCase) -> Result<(), ModelError> {
        let input = self.picture(&case.input)?;
        let frame = [case.target.width, case.target.height];
        let (framed, at) = picture::fit(&input, frame)?;
        self.pixels(&case.output, &framed, &self.picture(&case.output)?.into_raw());
        let right = frame[0] - at.x - at.width;
        let padding = [at.x, at.y, right, frame[1] - at.y - at.height].map(f64::from);
        let recorded = case.padding_left_top_right_bottom.map(f64::from);
        self.numbers(&format!("padding of {}", case.output), &padding, &recorded);
        let unpadded = picture::unpad(&framed, at);
        self.pixels(&case.unpadded, &unpadded, &self.picture(&case.unpadded)?.into_raw());
        let drawing = picture::fit_drawing(&first_channel(&input), frame)?;
        let recorded = self.grey(&case.first_channel_nearest_exact)?;
        self.pixels(&case.first_channel_nearest_exact, &drawing, &recorded);
        let shrunk = picture::shrink(&input, case.pre_resize_fit_box)?;
        self.pixels(&case.pre_resized, &shrunk, &self.picture(&case.pre_resized)?.into_raw());
        Ok(())
    }

    fn agnostic(&mut self, case: &AgnosticCase) -> Result<(), ModelError> {
        let image = self.picture(&case.image)?;
        let labels = self.grey(&case.labels)?;
        let (width, height) = (labels.width() as usize, labels.height() as usize);
        let labels = LabelMap::new(width, height, labels.into_raw());
        let labels = labels.filter(|_| image.dimensions() == (width as u32, height as u32));
        let labels = labels.ok_or_else(|| bad(&self.path(&case.labels), "is no label map of its picture"))?;
        let person = agnostic::person(&image, &labels, case.category);
        self.pixels(&case.agnostic, &person, &self.picture(&case.agnostic)?.into_raw());
        let garment = agnostic::garment(&image, &labels, case.category);
        self.pixels(&case.garment, &garment, &self.picture(&case.garment)?.into_raw());
        Ok(())
    }

    fn person(&mut self, case: &PersonCase) -> Result<(), ModelError> {
        let image = self.picture(&case.image)?;
        let path = self.path(&case.tensors);
        let recorded = Recorded { tensors: candle_core::safetensors::load(&path, &Device::Cpu)?, path };

        let letterbox = Letterbox::of(&image)?;
        self.numbers("detector_ratio", &[letterbox.ratio], &[case.detector_ratio]);
        let planes: Vec<u8> = letterbox.planes.iter().map(|value| *value as u8).collect();
        let theirs: Vec<u8> = recorded.get("detector.input_chw_bgr")?.flatten_all()?.to_vec1()?;
        self.pixels("detector.input_chw_bgr", &planes, &theirs);
        let rows = recorded.get("detector.output")?;
        let row = rows.dim(2)?;
        let people = letterbox.people(&rows.flatten_all()?.to_vec1::<f32>()?, row);
        let people: Vec<f64> = people.into_iter().flatten().map(f64::from).collect();
        self.numbers("detector.person_boxes_xyxy", &people, &recorded.values("detector.person_boxes_xyxy")?);

        let boxes = recorded.values("pose.crop_boxes_xyxy")?;
        let crops: Vec<Crop> = boxes
            .chunks_exact(4)
            .map(|sides| Crop::around(std::array::from_fn(|n| sides[n] as f32)))
            .collect();
        let all = |of: &dyn Fn(&Crop) -> [f64; 2]| crops.iter().flat_map(of).collect::<Vec<_>>();
        self.numbers("pose.centers", &all(&|crop| crop.centre), &recorded.values("pose.centers")?);
        self.numbers("pose.scales", &all(&|crop| crop.size), &recorded.values("pose.scales")?);
        self.crops(&crops, &image, &recorded)?;

        let [across, down] = [recorded.get("pose.simcc_x")?, recorded.get("pose.simcc_y")?];
        let mut found = Vec::new();
        for (n, crop) in crops.iter().enumerate() {
            let row = |rows: &Tensor| rows.get(n)?.flatten_all()?.to_vec1::<f32>();
            found.push(crop.decode(&row(across)?, &row(down)?));
        }
        self.found("pose.keypoints_xy", "pose.scores", &found, |found| found.points.clone(), &recorded)?;
        let openpose = |found: &Found| [&found.body()[..], &found.points[17..]].concat();
        self.found("pose.openpose_keypoints_xy", "pose.openpose_scores", &found, openpose, &recorded)?;
        self.best(&pose::best(&found, image.width(), image.height()), &recorded)
    }

    /// What the pose network is given; recorded at every fourth row and column, colours last.
    fn crops(&mut self, crops: &[Crop], image: &RgbImage, recorded: &Recorded) -> Result<(), ModelError> {
        let name = "pose.input_hwc_bgr_normalised_u8scale";
        let theirs = recorded.get(name)?;
        let [_, rows, columns, _] = theirs.dims() else {
            return Err(bad(&recorded.path, format!("{name} is no batch of pictures")));
        };
        let planes = crops.iter().map(|crop| crop.planes(image));
        let ours = planes.flat_map(|planes| {
            let (width, height) = (288, planes.len() / 3 / 288);
            let (down, across) = (height / rows, width / columns);
            let mut values = Vec::new();
            for at in (0..*rows).flat_map(|y| (0..*columns).map(move |x| y * down * width + x * across)) {
                values.extend((0..3).map(|plane| planes[plane * width * height + at]));
            }
            values
        });
        // Back to levels, whose rounding is what may differ.
        let level = |value: f32| (f64::from(value) * 57.0 + 128.0).round().clamp(0.0, 255.0) as u8;
        let ours: Vec<u8> = ours.map(level).collect();
        let theirs: Vec<u8> = recorded.values(name)?.into_iter().map(|value| level(value as f32)).collect();
        self.pixels(name, &ours, &theirs);
        Ok(())
    }

    fn found(
        &mut self,
        places: &str,
        scores: &str,
        found: &[Found],
        points: impl Fn(&Found) -> Vec<Point>,
        recorded: &Recorded,
    ) -> Result<(), ModelError> {
        let points: Vec<Point> = found.iter().flat_map(points).collect();
        let at: Vec<f64> = points.iter().flat_map(|point| point.at).collect();
        self.numbers(places, &at, &recorded.values(places)?);
        let sure: Vec<f64> = points.iter().map(|point| point.score).collect();
        self.numbers(scores, &sure, &recorded.values(scores)?);
        Ok(())
    }

    fn best(&mut self, best: &Pose, recorded: &Recorded) -> Result<(), ModelError> {
        let body: Vec<f64> = best.body.iter().flat_map(|keypoint| keypoint.at).collect();
        self.numbers("pose.best.bodies_candidate", &body, &recorded.values("pose.best.bodies_candidate")?);
        let seen =
            best.body.iter().enumerate().map(|(n, keypoint)| if keypoint.seen { n as f64 } else { -1.0 });
        let seen: Vec<f64> = seen.collect();
        self.numbers("pose.best.bodies_subset", &seen, &recorded.values("pose.best.bodies_subset")?);
        let at = |keypoint: &Keypoint| if keypoint.seen { keypoint.at } else { [-1.0; 2] };
        let faces: Vec<f64> = best.face.iter().flat_map(at).collect();
        self.numbers("pose.best.faces", &faces, &recorded.values("pose.best.faces")?);
        let hands: Vec<f64> = best.hands.iter().flatten().flat_map(at).collect();
        self.numbers("pose.best.hands", &hands, &recorded.values("pose.best.hands")?);
        Ok(())
    }
}

/// The tensors of a `person` case.
struct Recorded {
    tensors: HashMap<String, Tensor>,
    path: PathBuf,
}

impl Recorded {
    fn get(&self, name: &str) -> Result<&Tensor, ModelError> {
        self.tensors.get(name).ok_or_else(|| bad(&self.path, format!("{name} is missing")))
    }

    fn values(&self, name: &str) -> Result<Vec<f64>, ModelError> {
        Ok(self.get(name)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
    }
}

impl PoseCase {
    /// One pose for each row of `subset`; `None` when the lists do not belong together.
    fn people(&self) -> Option<Vec<Pose>> {
        let person = |(n, seen): (usize, &Vec<f64>)| {
            let mut pose = Pose::nobody();
            for (joint, at) in pose.body.iter_mut().zip(seen) {
                if *at >= 0.0 {
                    *joint = Keypoint { at: *self.candidate.get(*at as usize)?, seen: true };
                }
            }
            for (side, hand) in pose.hands.iter_mut().enumerate() {
                if !self.hands.is_empty() {
                    *hand = seen_points(self.hands.get(n + side * self.subset.len())?)?;
                }
            }
            if !self.faces.is_empty() {
                pose.face = seen_points(self.faces.get(n)?)?;
            }
            (seen.len() == BODY).then_some(pose)
        };
        self.subset.iter().enumerate().map(person).collect()
    }
}

fn seen_points<const N: usize>(points: &[[f64; 2]]) -> Option<[Keypoint; N]> {
    let keypoints: Vec<_> = points.iter().map(|at| Keypoint { at: *at, seen: at[0] >= 0.0 }).collect();
    keypoints.try_into().ok()
}

fn first_channel(picture: &RgbImage) -> GrayImage {
    GrayImage::from_fn(picture.width(), picture.height(), |x, y| [picture.get_pixel(x, y).0[0]].into())
}
