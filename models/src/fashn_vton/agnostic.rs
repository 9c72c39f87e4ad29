//! What of a picture is hidden: the clothes that go, or everything but the garment that comes.
//!
//! Source: github.com/fashn-AI/fashn-vton-1.5 at 7c0f10a, `preprocessing/agnostic.py` and `masks.py`.

use kraftr_imaging::RgbImage;
use kraftr_protocol::Category;

use crate::person::mask::{Growth, Mask};
use crate::person::parse::{Label, LabelMap};

/// The grey of what is hidden.
const HIDDEN: u8 = 127;
/// Lengths are meant for pictures of that height.
const HEIGHT: f64 = 864.0;
/// A seam around the clothes, so that nothing of their edge shows.
const SEAM: f64 = 4.0;
/// Radius of the brush that paints over the clothes.
const BRUSH: f64 = 18.0;
/// How far from what is painted over the box around the clothes is hidden too.
const BOX_REACH: f64 = 100.0;
/// Room for the new garment, aside and up and down.
const ROOM: [f64; 2] = [33.0, 16.0];

/// Who somebody is, whatever they wear.
const IDENTITY: [Label; 6] =
    [Label::Face, Label::Hair, Label::Jewelry, Label::Bag, Label::Glasses, Label::Hat];

/// The clothes of a category.
fn clothes(category: Category) -> &'static [Label] {
    use Label::{Belt, Dress, Pants, Scarf, Skirt, Top};
    match category {
        Category::Tops => &[Top, Dress, Scarf],
        Category::Bottoms => &[Skirt, Pants, Belt],
        Category::OnePieces => &[Top, Dress, Scarf, Skirt, Pants, Belt],
    }
}

/// The parts of a body that such clothes cover or bare.
fn limbs(category: Category) -> &'static [Label] {
    match category {
        Category::Tops => &[Label::Arms, Label::Torso],
        Category::Bottoms => &[Label::Legs],
        Category::OnePieces => &[Label::Arms, Label::Torso, Label::Legs],
    }
}

/// What stays beside [`IDENTITY`]: the limbs of the other half, and the hands or feet of this one.
fn kept(category: Category) -> &'static [Label] {
    match category {
        Category::Tops => &[Label::Legs, Label::Hands],
        Category::Bottoms => &[Label::Arms, Label::Feet],
        Category::OnePieces => &[Label::Hands, Label::Feet],
    }
}

/// The garment alone.
pub(crate) fn garment(picture: &RgbImage, labels: &LabelMap, category: Category) -> RgbImage {
    hide(picture, labels.mask(clothes(category)).iter().map(|garment| !garment))
}

/// The person without what a garment of that category replaces.
pub(crate) fn person(picture: &RgbImage, labels: &LabelMap, category: Category) -> RgbImage {
    let scale = f64::from(picture.height()) / HEIGHT;
    let length = |pixels: f64| (pixels * scale) as usize;
    let gone = labels.mask(&[clothes(category), limbs(category)].concat());

    // A square of an even side has its middle right of and below its centre.
    let seam = length(SEAM).max(1);
    let [less, more] = [(seam - 1) / 2, seam / 2];
    let seam = Growth { left: less, right: more, up: less, down: more };
    let covered = gone.grown(seam);

    let brushed = gone.brushed(length(BRUSH).max(1));
    let reach = BOX_REACH * scale;
    let near: Vec<bool> = brushed.distances().into_iter().map(|far| f64::from(far) <= reach).collect();
    let near = Mask::new(picture.width() as usize, picture.height() as usize, near);
    let around = gone.bounding_box().combine(&near, |inside, near| inside && near);

    let [aside, down] = ROOM.map(length);
    let room = around.grown(Growth { left: aside, right: aside, up: down, down });
    let stays = labels.mask(&[&IDENTITY, kept(category)].concat());
    let hidden = covered.combine(&room.combine(&stays, |room, stays| room && !stays), |a, b| a || b);
    hide(picture, hidden.iter())
}

fn hide(picture: &RgbImage, hidden: impl Iterator<Item = bool>) -> RgbImage {
    let mut picture = picture.clone();
    for (pixel, hidden) in picture.pixels_mut().zip(hidden) {
        if hidden {
            pixel.0 = [HIDDEN; 3];
        }
    }
    picture
}
