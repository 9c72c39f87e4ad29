//! Stable Diffusion 1 and 2: a text encoder, a UNet over latents and an autoencoder, sampled step by step.
//!
//! The networks are written here rather than taken from candle-transformers 0.11: its UNet takes one timestep for a
//! whole batch (`unet_2d.rs`), while samples of different renders stand at different ones; its GEGLU is the tanh form
//! (`attention.rs`), while the checkpoints were trained with the exact one; and none of its parts, text encoder and
//! autoencoder included, says which tensors it expects, which `check` and `init` live on (and the text encoder comes in
//! the published sizes only).
//! Source: diffusers 0.42 (`UNet2DConditionModel`, `AutoencoderKL`) and transformers (`CLIPTextModel`).

mod arithmetic;
mod autoencoder;
mod blocks;
pub(crate) mod clip;
pub(crate) mod config;
mod latent;
mod layers;
pub(crate) mod pipeline;
mod source;
pub(crate) mod tokenizer;
mod unet;
