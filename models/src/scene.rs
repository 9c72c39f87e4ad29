//! A subject in front of another background: what of a picture is the subject, where it stands in a painter's frame, and
//! the picture that comes out.
//!
//! The painter is told what stays ([`Kept`]), so that light and ground fit the subject. What it paints is scaled to the
//! picture's size and shows only where the matte lets it: the subject's own pixels stay as they are.

use kraftr_imaging::{Filter, GrayImage, RgbImage, resize};

use crate::ModelError;
use crate::inputs::Kept;
use crate::person::parse::LabelMap;
use crate::picture;

/// Pixels of a picture's shorter side for one pixel of the matte's soft edge.
const EDGE: u32 = 400;

/// A picture and what of it stays in front of a scene.
#[derive(Clone)]
pub struct Subject {
    kept: Kept,
}

impl Subject {
    /// What `labels` say is not background, with an edge that softens inwards: outwards it would bring a rim of the old
    /// background along.
    pub(crate) fn cut(picture: RgbImage, labels: &LabelMap) -> Result<Self, ModelError> {
        let (width, height) = picture.dimensions();
        let background = labels.background();
        if background.iter().all(|set| set) {
            return Err(ModelError::Picture(
                "nobody was found in the picture that a scene is put behind; send one that shows a person"
                    .to_owned(),
            ));
        }
        let edge = width.min(height).div_ceil(EDGE) as f32 + 1.0;
        let soft = |far: &f32| (far / edge * 255.0).round() as u8;
        let matte = background.distances().iter().map(soft).collect();
        let matte =
            GrayImage::from_raw(width, height, matte).expect("a map of labels has the picture's size");
        Ok(Self { kept: Kept { picture, matte } })
    }

    /// The whole picture.
    pub fn picture(&self) -> &RgbImage {
        &self.kept.picture
    }

    /// White is the subject, black is what the scene replaces; of the picture's size.
    pub fn matte(&self) -> &GrayImage {
        &self.kept.matte
    }

    /// What a release keeps that paints frames of that width and height: the subject in the middle, as large as it fits.
    pub fn framed(&self, frame: [u32; 2]) -> Result<Kept, ModelError> {
        let Kept { picture, matte } = &self.kept;
        let (picture, _) = picture::fit(picture, frame)?;
        // As a picture, so that it lies to the pixel where the picture lies.
        let grey =
            RgbImage::from_fn(matte.width(), matte.height(), |x, y| [matte.get_pixel(x, y).0[0]; 3].into());
        let (grey, _) = picture::fit(&grey, frame)?;
        let matte = GrayImage::from_fn(frame[0], frame[1], |x, y| [grey.get_pixel(x, y).0[0]].into());
        Ok(Kept { picture, matte })
    }

    /// The subject in front of what was painted in such a frame, in the size of the subject's picture.
    pub fn compose(&self, painted: &RgbImage) -> Result<RgbImage, ModelError> {
        let (width, height) = self.kept.picture.dimensions();
        let at = picture::Placement::within([painted.width(), painted.height()], (width, height));
        let painted = picture::unpad(painted, at);
        let painted = if painted.dimensions() == (width, height) {
            painted
        } else {
            resize(&painted, width, height, Filter::Lanczos3)?
        };
        Ok(self.kept.over(&painted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture whose middle third is somebody.
    fn subject(width: u32, height: u32) -> Subject {
        let picture = RgbImage::from_fn(width, height, |x, y| [x as u8, y as u8, 9].into());
        let middle = |n: u32| (width / 3..2 * width / 3).contains(&(n % width));
        let labels = (0..width * height).map(|n| u8::from(middle(n))).collect();
        let labels = LabelMap::new(width as usize, height as usize, labels).unwrap();
        Subject::cut(picture, &labels).unwrap()
    }

    #[test]
    fn the_subject_stays_to_the_byte_and_the_scene_shows_around_it() {
        let subject = subject(90, 60);
        for frame in [[90, 60], [64, 64], [240, 200]] {
            let painted = RgbImage::from_pixel(frame[0], frame[1], [200, 150, 100].into());
            let composed = subject.compose(&painted).unwrap();
            assert_eq!(composed.dimensions(), (90, 60));
            for (x, y, pixel) in composed.enumerate_pixels() {
                match subject.matte().get_pixel(x, y).0[0] {
                    255 => assert_eq!(pixel, subject.picture().get_pixel(x, y)),
                    0 => assert_eq!(pixel.0, [200, 150, 100], "{x} {y}"),
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn the_edge_is_soft_inwards_only() {
        let subject = subject(900, 801);
        let row: Vec<u8> = (298..306).map(|x| subject.matte().get_pixel(x, 400).0[0]).collect();
        assert_eq!(row, [0, 0, 64, 128, 191, 255, 255, 255]);
    }

    #[test]
    fn a_frame_of_another_shape_holds_the_whole_subject() {
        let kept = subject(90, 60).framed([64, 64]).unwrap();
        assert_eq!((kept.picture.dimensions(), kept.matte.dimensions()), ((64, 64), (64, 64)));
        assert_eq!(kept.matte.get_pixel(32, 5).0, [0], "above the picture everything is painted");
        assert_eq!(kept.matte.get_pixel(32, 32).0, [255]);
        assert_eq!(kept.matte.get_pixel(5, 32).0, [0]);
    }

    #[test]
    fn a_picture_of_nobody_has_no_subject() {
        let labels = LabelMap::new(4, 4, vec![0; 16]).unwrap();
        assert!(matches!(Subject::cut(RgbImage::new(4, 4), &labels), Err(ModelError::Picture(_))));
        let labels = LabelMap::new(4, 4, vec![1; 16]).unwrap();
        let all = Subject::cut(RgbImage::new(4, 4), &labels).unwrap();
        assert!(all.matte().pixels().all(|pixel| pixel.0 == [255]), "somebody who fills it hides the scene");
    }
}
