//! A look at a latent without the decoder.

use candle_core::{Device, Tensor};
use kraftr_imaging::RgbImage;

use crate::ModelError;
use crate::picture;

/// Red, green and blue of a latent's four channels: a linear stand-in for the decoder, with the figures that InvokeAI
/// previews Stable Diffusion 1.5 with.
const COLOURS: [[f32; 3]; 4] =
    [[0.298, 0.207, 0.208], [0.187, 0.286, 0.173], [-0.158, 0.189, 0.264], [-0.184, -0.271, -0.473]];

/// `[1, c, h, w]` as a picture of `width` x `height`, roughly.
pub(crate) fn glimpse(latent: &Tensor, width: u32, height: u32) -> Result<RgbImage, ModelError> {
    let (_, channels, h, w) = latent.dims4()?;
    let latent = latent.to_device(&Device::Cpu)?.flatten_from(2)?.squeeze(0)?.to_vec2::<f32>()?;
    let latent = &latent[..channels.min(COLOURS.len())];
    let colour = |of: usize| {
        (0..h * w)
            .map(move |at| latent.iter().zip(COLOURS).map(|(channel, share)| share[of] * channel[at]).sum())
    };
    let planes: Vec<f32> = (0..3).flat_map(colour).collect();
    picture::scaled_roughly(&picture::from_planes(&planes, w as u32, h as u32), width, height)
}
