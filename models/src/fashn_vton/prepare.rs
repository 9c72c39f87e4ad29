//! Pictures to the patches that the network embeds.

use candle_core::{Device, Result, Tensor};
use kraftr_imaging::RgbImage;
use kraftr_protocol::Category;

use super::config::Config;
use crate::layers::patch;
use crate::picture;

/// The network's number of a category; 0 is none.
pub(crate) fn category_number(category: Category) -> u32 {
    match category {
        Category::Tops => 1,
        Category::Bottoms => 2,
        Category::OnePieces => 3,
    }
}

/// Patches of a picture that fills the frame, with "nobody" as its pose: a black drawing, -1 everywhere.
pub(crate) fn patches(config: &Config, framed: &RgbImage, device: &Device) -> Result<Tensor> {
    let [height, width] = config.input_shape;
    let planes = Tensor::from_vec(picture::to_planes(framed), (1, 3, height, width), device)?;
    let pose = planes.narrow(1, 0, 1)?.ones_like()?.neg()?;
    patch::cut(&Tensor::cat(&[&planes, &pose], 1)?, config.patch_size)
}
