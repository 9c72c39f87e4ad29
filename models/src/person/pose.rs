//! How people stand: 133 points of a whole body from a picture cut to a box around each (RTMPose's SimCC head, as
//! DWPose trains it), then one of them in `OpenPose`'s order.

use kraftr_imaging::RgbImage;
use kraftr_imaging::opencv;

use super::detect::Box;
use super::onnx::{Network, Output};
use crate::ModelError;

/// Pixels that the network looks at, width and height.
const INPUT: [u32; 2] = [288, 384];
/// Points that the network finds.
const POINTS: usize = 133;
/// Positions for a pixel.
const SPLIT: f64 = 2.0;
/// A box and what is looked at around it.
const PADDING: f64 = 1.25;
/// Points with a score below this are not seen.
const SEEN_MIN: f64 = 0.3;
/// Mean and deviation of the colours, in the order in which the network is given them: blue first. That the numbers
/// are red's first is the reference's, and what its results are made with.
const MEAN: [f64; 3] = [123.675, 116.28, 103.53];
const DEVIATION: [f64; 3] = [58.395, 57.12, 57.375];

/// Points of a body in `OpenPose`'s order: nose, neck, right arm, left arm, right leg, left leg, eyes, ears.
pub(crate) const BODY: usize = 18;
/// Where `OpenPose`'s points (but the neck, the second) are among the network's.
const OPENPOSE: [usize; BODY - 1] = [0, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3];
/// The shoulders, between which the neck is.
const SHOULDERS: [usize; 2] = [5, 6];
/// Where feet, face and hands begin among the network's points.
const FACE: usize = 23;
const LEFT_HAND: usize = FACE + 68;
const RIGHT_HAND: usize = LEFT_HAND + 21;

/// A point of a person.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Keypoint {
    /// In parts of the picture's width and height.
    pub(crate) at: [f64; 2],
    /// Whether it is sure enough to be drawn.
    pub(crate) seen: bool,
}

/// One person's points.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pose {
    /// In `OpenPose`'s order.
    pub(crate) body: [Keypoint; BODY],
    /// Left and right: wrist, then four points of each finger.
    pub(crate) hands: [[Keypoint; 21]; 2],
    /// Outline, brows, nose, eyes, mouth.
    pub(crate) face: [Keypoint; 68],
}

impl Pose {
    /// Nothing of anybody is seen.
    pub(crate) fn nobody() -> Self {
        let unseen = Keypoint { at: [-1.0; 2], seen: false };
        Self { body: [unseen; BODY], hands: [[unseen; 21]; 2], face: [unseen; 68] }
    }

    fn of(person: &Found, size: [f64; 2]) -> Self {
        let relative = |at: [f64; 2]| [at[0] / size[0], at[1] / size[1]];
        // Of a body a point that is just sure enough is not drawn, of hands and face it is: the reference's asymmetry.
        let detail = |n: usize| {
            let Point { at, score } = person.points[n];
            Keypoint { at: relative(at), seen: score >= SEEN_MIN }
        };
        Self {
            body: person
                .body()
                .map(|Point { at, score }| Keypoint { at: relative(at), seen: score > SEEN_MIN }),
            hands: [LEFT_HAND, RIGHT_HAND].map(|first| std::array::from_fn(|n| detail(first + n))),
            face: std::array::from_fn(|n| detail(FACE + n)),
        }
    }
}

/// A point in pixels of the picture, and how sure it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Point {
    pub(crate) at: [f64; 2],
    pub(crate) score: f64,
}

/// What the network found of one person.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Found {
    /// In the network's order.
    pub(crate) points: Vec<Point>,
}

impl Found {
    /// The body in `OpenPose`'s order. A neck is as sure as its shoulders: entirely or not at all.
    pub(crate) fn body(&self) -> [Point; BODY] {
        let [left, right] = SHOULDERS.map(|n| self.points[n]);
        let middle = [0, 1].map(|axis| f64::midpoint(left.at[axis], right.at[axis]));
        let sure = left.score > SEEN_MIN && right.score > SEEN_MIN;
        let neck = Point { at: middle, score: f64::from(u8::from(sure)) };
        std::array::from_fn(|n| match n {
            0 => self.points[OPENPOSE[0]],
            1 => neck,
            _ => self.points[OPENPOSE[n - 1]],
        })
    }
}

/// The part of a picture that the network looks at, in pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Crop {
    pub(crate) centre: [f64; 2],
    /// Width and height, in the network's aspect.
    pub(crate) size: [f64; 2],
}

impl Crop {
    /// Around a box of left, top, right and bottom.
    pub(crate) fn around([left, top, right, bottom]: Box) -> Self {
        let [left, top, right, bottom] = [left, top, right, bottom].map(f64::from);
        let (width, height) = ((right - left) * PADDING, (bottom - top) * PADDING);
        let aspect = f64::from(INPUT[0]) / f64::from(INPUT[1]);
        let wide = width > height * aspect;
        let size = if wide { [width, width / aspect] } else { [height * aspect, height] };
        Self { centre: [(left + right) * 0.5, (top + bottom) * 0.5], size }
    }

    /// What the network is given: blue, green and red planes, `[3, 384, 288]`.
    pub(crate) fn planes(&self, picture: &RgbImage) -> Vec<f32> {
        let [width, height] = INPUT;
        let cut = opencv::crop(picture, self.centre, self.size[0] / f64::from(width), width, height);
        let pixels = (width * height) as usize;
        let mut planes = vec![0.0; 3 * pixels];
        for (at, pixel) in cut.pixels().enumerate() {
            for (plane, byte) in pixel.0.iter().rev().enumerate() {
                planes[plane * pixels + at] = ((f64::from(*byte) - MEAN[plane]) / DEVIATION[plane]) as f32;
            }
        }
        planes
    }

    /// Points from where the network's two rows of positions are highest, `[133, 576]` and `[133, 768]`.
    pub(crate) fn decode(&self, across: &[f32], down: &[f32]) -> Found {
        let [width, height] = INPUT.map(f64::from);
        let positions = [width * SPLIT, height * SPLIT].map(|positions| positions as usize);
        let rows = across.chunks_exact(positions[0]).zip(down.chunks_exact(positions[1]));
        let points = rows.map(|(across, down)| {
            let ((x, sure_x), (y, sure_y)) = (highest(across), highest(down));
            let score = sure_x.min(sure_y);
            // What is nowhere lies just outside the box.
            let at = if score > 0.0 { [x as f64, y as f64] } else { [-1.0; 2] };
            let place = |axis: usize, side: f64| {
                at[axis] / SPLIT / side * self.size[axis] + self.centre[axis] - self.size[axis] / 2.0
            };
            Point { at: [place(0, width), place(1, height)], score: f64::from(score) }
        });
        Found { points: points.collect() }
    }
}

/// The first of the highest values.
fn highest(values: &[f32]) -> (usize, f32) {
    let mut best = (0, f32::NEG_INFINITY);
    for (at, value) in values.iter().enumerate() {
        if *value > best.1 {
            best = (at, *value);
        }
    }
    best
}

/// The one who fills most of the picture with what is seen of them below the head, and their pose in a picture of
/// `width` times `height` pixels.
pub(crate) fn best(people: &[Found], width: u32, height: u32) -> Pose {
    let bodies: Vec<_> = people.iter().map(Found::body).collect();
    let below_head = 1..14;
    let Some(first) = bodies.first() else { return Pose::nobody() };
    let ranks = bodies.iter().map(|body| {
        let sure = body[below_head.clone()].iter().map(|point| point.score);
        let sure: f64 = sure.filter(|score| *score > SEEN_MIN).sum();
        // Which points count is asked of the first person alone: a slip of the reference that decides between people.
        let seen = below_head.clone().filter(|n| first[*n].score > SEEN_MIN).map(|n| body[n].at);
        let extent = |axis: usize| {
            let inside = seen.clone().map(|at| at[axis]).filter(|value| *value > 0.0);
            let (low, high) =
                inside.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
            (high - low).max(0.0)
        };
        (sure * extent(0) * extent(1), sure)
    });
    let ranks: Vec<_> = ranks.collect();
    let by_area = ranks.iter().any(|(area, _)| *area != 0.0);
    let rank = |n: usize| if by_area { ranks[n].0 } else { ranks[n].1 };
    let chosen = (1..people.len()).fold(0, |best, n| if rank(n) > rank(best) { n } else { best });
    Pose::of(&people[chosen], [width, height].map(f64::from))
}

/// The network that finds points.
pub(crate) struct Estimator {
    network: Network,
}

impl Estimator {
    /// A network from the bytes of its file, which `name` names in errors.
    pub(crate) fn load(name: &str, bytes: Vec<u8>) -> Result<Self, ModelError> {
        Ok(Self { network: Network::load(name, bytes)? })
    }

    /// The pose of whoever fills most of the picture; without boxes the whole picture is taken for one.
    pub(crate) fn estimate(&self, picture: &RgbImage, boxes: &[Box]) -> Result<Pose, ModelError> {
        let (width, height) = picture.dimensions();
        let whole = [[0.0, 0.0, width as f32, height as f32]];
        let boxes = if boxes.is_empty() { &whole } else { boxes };
        let people = boxes.iter().map(|around| self.points(picture, Crop::around(*around)));
        Ok(best(&people.collect::<Result<Vec<_>, _>>()?, width, height))
    }

    fn points(&self, picture: &RgbImage, crop: Crop) -> Result<Found, ModelError> {
        let [width, height] = INPUT.map(|side| side as usize);
        let outputs = self.network.run(crop.planes(picture), [1, 3, height, width])?;
        let positions = [width, height].map(|side| side * SPLIT as usize);
        let fits = |output: &Output, positions| output.shape == [1, POINTS, positions];
        match outputs.as_slice() {
            [across, down] if fits(across, positions[0]) && fits(down, positions[1]) => {
                Ok(crop.decode(&across.values, &down.values))
            }
            _ => Err(self.network.unexpected(&outputs, &format!("two of [1, {POINTS}, {positions:?}]"))),
        }
    }
}
