//! Pixels to the mark in them, without the original.

use kraftr_imaging::RgbImage;
use rustfft::num_complex::Complex32;

use super::lattice::Lattice;
use super::plane::Plane;
use super::pose::{Fits, Matrix, Pose, Powers, SYMMETRIES, fit_near, product};
use super::residual::{Look, residual};
use super::search;
use super::spectrum::Spectrum;
use super::windows::{Window, windows};
use super::{SIDE_READ_MIN, canonical_scale, proportional_scale};
use crate::payload::{self, CHECK_BITS, CODED_BITS, Decoded};
use crate::{Key, KeyRing};

/// Pixels that are looked at; larger pictures are shrunk to this many.
const PIXELS_MAX: usize = 1_400_000;
/// Code words that are decoded for one key and picture at most. The false-positive bound counts on it.
pub const ATTEMPTS_MAX: usize = 32;
/// Fit of the known lines from which a way of lying is looked at for a picture that was not cut.
const WHOLE_MIN: f64 = 2.2;
/// Ways of lying so that are looked at.
const WHOLE_ATTEMPTS: usize = 2;
/// Distance in canonical pixels to which the middle of a whole picture may have moved.
const WHOLE_REACH: i32 = 3;
/// Fit from which a pose among all is looked at, and one in a window.
const PEAK_MIN: f64 = 4.2;
const WINDOW_MIN: f64 = 4.9;
/// Poses that are looked at for each key.
const CANDIDATES: usize = 6;
/// Fit from which a settled pose is polished: for a picture as it lies, and among all poses, of which chance offers better
/// ones.
const WHOLE_SETTLED_MIN: f64 = 3.8;
const SETTLED_MIN: f64 = 5.5;
/// Fit from which a polished pose is decoded.
const POLISHED_MIN: f64 = 5.6;
/// Steps in pixels by which poses are polished.
const POLISH: [f64; 5] = [1.0, 0.5, 0.25, 0.125, 0.0625];
/// Windows that are read together at least.
const WINDOWS_MIN: usize = 3;
/// Width in lattice steps of the window in which a ring's strength is measured.
const RING: f32 = 3.0;
/// Strength that a ring is taken to have at least, in parts of the mean.
const RING_MIN: f32 = 0.1;

/// What a search for marks found.
#[derive(Debug, Clone, PartialEq)]
pub struct Detection {
    /// Whether a mark of one of the keys was read and its check holds.
    pub found: bool,
    /// The payload of the mark.
    pub payload: Option<[u8; 8]>,
    /// How well the picture agrees with the mark that was read, in deviations of what chance agrees: 40 and more just
    /// after embedding, less the more was lost since; 0 if none was found.
    pub score: f64,
    /// Name of the key that the mark was made with.
    pub key: Option<String>,
    /// How probable it is at most that a picture without a mark of these keys is said to have one.
    pub bound: f64,
}

/// Searches `image` for a mark of any of `keys`.
///
/// At most 32 code words are decoded for each key, and each passes its check of 40 bits by chance with probability
/// 2^-40, whatever the picture holds.
pub fn detect(image: &RgbImage, keys: &KeyRing) -> Detection {
    let bound = (ATTEMPTS_MAX * keys.keys().len()) as f64 / (1u64 << CHECK_BITS) as f64;
    let mut read = None;
    search(image, keys.keys(), &mut |key, word, score| {
        if word.holds() {
            read = Some((key.id().to_owned(), word.payload, score));
        }
        word.holds()
    });
    match read {
        Some((key, payload, score)) => {
            Detection { found: true, payload: Some(payload), score, key: Some(key), bound }
        }
        None => Detection { found: false, payload: None, score: 0.0, key: None, bound },
    }
}

/// How many leading bits of its check, of 40, agreed in each code word that [`detect`] decodes in `image`, for measuring
/// the bound: of words that are no mark's, one in 2^n agrees in n bits or more.
pub fn attempts(image: &RgbImage, keys: &KeyRing) -> Vec<u32> {
    let mut checks = Vec::new();
    search(image, keys.keys(), &mut |_, word, _| {
        checks.push(word.check);
        word.holds()
    });
    checks
}

/// Hands each code word that is decoded to `visit`, with its key and score, until that says to stop.
fn search(image: &RgbImage, keys: &[Key], visit: &mut Visit) {
    if image.width().min(image.height()) < SIDE_READ_MIN {
        return;
    }
    let luma = Plane::luma_shrunk(image, PIXELS_MAX);
    let scale = canonical_scale(luma.width, luma.height);
    let scales = whole_scales(luma.width, luma.height);
    let mut readers: Vec<Reader> = keys.iter().map(Reader::new).collect();
    let sharp_residual = residual(&luma, Look::SHARP);
    let sharp = Spectrum::new(&sharp_residual);
    let mut sharp = Powers::new(&sharp);
    if readers.iter_mut().any(|reader| reader.whole(&mut sharp, &scales, visit)) {
        return;
    }
    let soft = Spectrum::new(&residual(&luma, Look::SOFT));
    let mut soft = Powers::new(&soft);
    if readers.iter_mut().any(|reader| reader.whole(&mut soft, &scales, visit)) {
        return;
    }
    let lattices = search::lattices(sharp.spectrum, scale);
    if readers.iter_mut().any(|reader| reader.among(&mut sharp, &lattices, visit)) {
        return;
    }
    let windows = windows(&sharp_residual, scale);
    for reader in &mut readers {
        if reader.piecewise(&windows, visit) {
            return;
        }
    }
}

/// Pixels that canonical pixels have if the picture is a whole one, scaled or not. A small one may have been marked at
/// its size, or be a larger one's thumbnail.
fn whole_scales(width: usize, height: usize) -> Vec<f64> {
    let marked = canonical_scale(width, height);
    let shrunk = proportional_scale(width, height);
    if shrunk < marked { vec![marked, shrunk] } else { vec![marked] }
}

/// Is handed a code word with its key and score, and says whether to stop.
type Visit<'a> = dyn FnMut(&Key, Decoded, f64) -> bool + 'a;

/// How the mark lies in a spectrum.
struct Placed<'a> {
    spectrum: &'a Spectrum,
    pose: Pose,
}

/// Reads spectra under one key.
struct Reader<'a> {
    key: &'a Key,
    lattice: Lattice,
    attempts: usize,
}

impl<'a> Reader<'a> {
    fn new(key: &'a Key) -> Self {
        Self { key, lattice: Lattice::new(key), attempts: 0 }
    }

    /// Tries the picture as it lies: whole, perhaps scaled, turned by quarters or mirrored.
    fn whole(&mut self, powers: &mut Powers, scales: &[f64], visit: &mut Visit) -> bool {
        self.lying(powers, scales).into_iter().any(|placed| self.attempt(&[placed], visit))
    }

    /// How the mark may lie in a picture that was not cut, best first.
    fn lying<'s>(&self, powers: &mut Powers<'s>, scales: &[f64]) -> Vec<Placed<'s>> {
        let spectrum = powers.spectrum;
        let mut poses: Vec<(Pose, f64)> = scales
            .iter()
            .flat_map(|scale| SYMMETRIES.map(|symmetry| symmetry.map(|entry| entry / scale)))
            .map(|matrix| fit_near(spectrum, &self.lattice, matrix, WHOLE_REACH))
            .collect();
        poses.sort_by(|a, b| b.1.total_cmp(&a.1));
        poses.retain(|(_, fit)| *fit >= WHOLE_MIN);
        poses.truncate(WHOLE_ATTEMPTS);
        poses.retain(|(pose, _)| pose.settled(spectrum, &self.lattice) >= WHOLE_SETTLED_MIN);
        let polished = |(pose, _): (Pose, f64)| pose.polished(powers, &self.lattice, &POLISH[1..]).0;
        poses.into_iter().map(polished).map(|pose| Placed { spectrum, pose }).collect()
    }

    /// Tries the best of the lattices.
    fn among(&mut self, powers: &mut Powers, lattices: &[Matrix], visit: &mut Visit) -> bool {
        let spectrum = powers.spectrum;
        let mut fits = Fits::new();
        let mut poses: Vec<(Pose, f64)> = Vec::new();
        for lattice in lattices {
            for symmetry in SYMMETRIES {
                let (pose, fit) = fits.best(spectrum, &self.lattice, product(symmetry, *lattice));
                if fit >= PEAK_MIN {
                    poses.push((pose, fit));
                }
            }
        }
        poses.sort_by(|a, b| b.1.total_cmp(&a.1));
        poses.truncate(CANDIDATES);
        poses.retain(|(pose, _)| pose.settled(spectrum, &self.lattice) >= SETTLED_MIN);
        let polish = |(pose, _): (Pose, f64)| pose.polished(powers, &self.lattice, &POLISH);
        let mut polished: Vec<(Pose, f64)> = poses.into_iter().map(polish).collect();
        polished.retain(|(_, fit)| *fit >= POLISHED_MIN);
        polished.sort_by(|a, b| b.1.total_cmp(&a.1));
        polished.into_iter().any(|(pose, _)| self.attempt(&[Placed { spectrum, pose }], visit))
    }

    /// Tries the windows together, each with a pose of its own.
    fn piecewise(&mut self, windows: &[Window], visit: &mut Visit) -> bool {
        let mut fits = Fits::new();
        let placed: Vec<Placed> =
            windows.iter().filter_map(|window| self.placed(window, &mut fits)).collect();
        placed.len() >= WINDOWS_MIN && self.attempt(&placed, visit)
    }

    /// How the mark lies in a window, if it seems to be there.
    fn placed<'w>(&self, window: &'w Window, fits: &mut Fits) -> Option<Placed<'w>> {
        let matrices =
            window.lattices.iter().flat_map(|lattice| SYMMETRIES.map(|symmetry| product(symmetry, *lattice)));
        let (pose, fit) = matrices
            .map(|matrix| fits.best(&window.spectrum, &self.lattice, matrix))
            .max_by(|a, b| a.1.total_cmp(&b.1))?;
        if fit < WINDOW_MIN {
            return None;
        }
        let (pose, fit) = pose.polished(&mut Powers::new(&window.spectrum), &self.lattice, &POLISH);
        (fit >= POLISHED_MIN).then_some(Placed { spectrum: &window.spectrum, pose })
    }

    /// Decodes the mark that lies so in each of these spectra.
    fn attempt(&mut self, placed: &[Placed], visit: &mut Visit) -> bool {
        if self.attempts == ATTEMPTS_MAX {
            return false;
        }
        self.attempts += 1;
        let mut soft = [0.0; CODED_BITS];
        for Placed { spectrum, pose } in placed {
            let weights = Rings::new(&self.lattice, &pose.known(spectrum, &self.lattice));
            for carrier in &self.lattice.carriers {
                let value = pose.read(spectrum, carrier.line) * weights.of(carrier.line.radius());
                for ((bit, sign), part) in carrier.slots.iter().zip([value.re, value.im]) {
                    soft[usize::from(*bit)] += sign * part;
                }
            }
        }
        let word = payload::decode(&soft, self.key);
        let score = if word.holds() { self.score(placed, word) } else { 0.0 };
        visit(self.key, word, score)
    }

    /// How well all lines agree with the mark of `word`.
    fn score(&self, placed: &[Placed], word: Decoded) -> f64 {
        let coded = payload::encode(word.payload, self.key);
        let mut values: Vec<Complex32> = Vec::new();
        for Placed { spectrum, pose } in placed {
            values.extend(
                self.lattice.values(&coded).map(|(line, value)| pose.read(spectrum, line) * value.conj()),
            );
        }
        super::pose::fit(&values)
    }
}

/// How much a line counts, by its radius: what the known lines of its ring still carry over their noise.
struct Rings(Vec<f32>);

impl Rings {
    fn new(lattice: &Lattice, known: &[Complex32]) -> Self {
        let values: Vec<(f32, Complex32)> =
            lattice.known.iter().map(|known| known.line.radius()).zip(known.iter().copied()).collect();
        let ring = |radius: f32| {
            let (mut sum, mut power, mut count) = (0.0, 0.0, 0.0);
            for (other, value) in &values {
                let weight = (-((other - radius) / RING).powi(2) / 2.0).exp();
                sum += weight * value.re;
                power += weight * value.norm_sqr();
                count += weight;
            }
            let (mean, power) = (sum / count, power / count);
            (mean, (power / 2.0 - mean * mean / 2.0).max(power / 8.0).max(f32::MIN_POSITIVE))
        };
        let rings: Vec<(f32, f32)> = (0..=32).map(|radius| ring(radius as f32)).collect();
        let mean = values.iter().map(|(_, value)| value.re).sum::<f32>() / values.len() as f32;
        let least = RING_MIN * mean.max(0.0);
        Self(rings.into_iter().map(|(strength, noise)| strength.max(least) / noise).collect())
    }

    fn of(&self, radius: f32) -> f32 {
        let at = (radius as usize).min(self.0.len() - 2);
        self.0[at] + (self.0[at + 1] - self.0[at]) * (radius - at as f32)
    }
}
