//! The only decoders and encoders of foreign pictures.
//!
//! Uploads, worker inputs and verification share one [`decode`] with one set of [`Limits`], so a file
//! that is refused in one place is refused everywhere. Everything past the decoder is an [`RgbImage`]:
//! 8-bit sRGB, upright, opaque, without metadata; only who marks foreign files asks for their transparency.

mod decode;
mod digest;
mod encode;
mod error;
mod header;
pub mod opencv;
mod resize;
mod similarity;
mod surplus;

pub use decode::{Decoded, Limits, Pixels, SourceFormat, decode, decode_transparent, over_white};
pub use digest::pixel_digest;
pub use encode::{Encoding, encode, encode_transparent};
pub use error::ImagingError;
pub use image::{GrayImage, RgbImage, RgbaImage};
pub use resize::{Filter, contact_sheet, resize, stack};
pub use similarity::{psnr, ssim};
