//! From a description to a picture.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use kraftr_imaging::RgbImage;

use super::autoencoder::Autoencoder;
use super::clip::TextEncoder;
use super::config::{self, Config, method_mistakes};
use super::latent;
use super::source::{Scope, Source};
use super::tokenizer::ClipTokenizer;
use super::unet::Unet;
use crate::device::Precision;
use crate::inputs::Kept;
use crate::model::{Architecture, Evaluations, PaintsWords, Sampling};
use crate::picture;
use crate::registry::Files;
use crate::sampler::diffusion::Schedule;
use crate::sampler::guidance::{self, Guidance};
use crate::weights::Weights;
use crate::{ModelError, noise};

/// The networks with their sampler.
pub(crate) struct StableDiffusion {
    config: Config,
    size: [u32; 2],
    tokenizer: ClipTokenizer,
    text: TextEncoder,
    unet: Unet,
    vae: Autoencoder,
    /// An empty description: the unconditional half.
    blank: Tensor,
    device: Device,
}

/// The files of a release.
pub(crate) struct Parts<'a> {
    pub(crate) merges: &'a str,
    pub(crate) text_encoder: &'a Weights,
    pub(crate) unet: &'a Weights,
    pub(crate) vae: &'a Weights,
}

/// Conditions of one render.
pub(crate) struct Prepared {
    conditions: Conditions,
    kept: Option<Kept>,
}

/// What the networks are told.
pub(crate) struct Conditions {
    /// The description, `[1, m, width]`.
    pub(crate) context: Tensor,
    /// What is there already.
    pub(crate) held: Option<Held>,
}

/// The part of a latent that is not free: at every node it is the given picture's, noised as far as that node.
/// Source: the repaint of `StableDiffusionInpaintPipeline` in diffusers 0.42 for UNets of four channels.
pub(crate) struct Held {
    /// The given picture, `[1, c, h, w]`.
    latent: Tensor,
    /// How much of it stays, 0 to 1, `[1, 1, h, w]`.
    matte: Tensor,
}

/// One image on its way from noise to picture.
pub(crate) struct Sample {
    prepared: Arc<Prepared>,
    walk: Walk,
}

/// A walk through the nodes of a schedule.
pub(crate) struct Walk {
    /// Where it is, `[1, c, h, w]`.
    pub(crate) x: Tensor,
    /// Where it began.
    noise: Tensor,
    /// The clean latent that the last step read off.
    clean: Option<Tensor>,
    schedule: Schedule,
    step: usize,
    guidance: Guidance,
    evaluations: Evaluations,
}

impl StableDiffusion {
    /// The release's networks, from its files in the roles `merges`, `text_encoder`, `unet` and `vae`.
    pub(crate) fn release(
        files: &Files<'_>,
        device: &Device,
        precision: Precision,
    ) -> Result<Self, ModelError> {
        let config = Config::of(files.manifest)?;
        let parts = Parts {
            merges: &files.text("merges")?,
            text_encoder: &files.weights("text_encoder")?,
            unet: &files.weights("unet")?,
            vae: &files.weights("vae")?,
        };
        Self::load(config, files.manifest.size, &parts, device, precision)
    }

    /// Networks of any configuration that [`Config::mistakes`] has nothing against. The autoencoder is in f32 whatever
    /// the others compute in: it runs once for a picture, and bf16 has a few dozen levels for the brighter half of one.
    pub(crate) fn load(
        config: Config,
        size: [u32; 2],
        parts: &Parts<'_>,
        device: &Device,
        precision: Precision,
    ) -> Result<Self, ModelError> {
        let refused = |reason: String| ModelError::Config { mistakes: vec![format!("merges: {reason}")] };
        let text = &config.text_encoder;
        let tokenizer = ClipTokenizer::new(parts.merges, &text.pad_token, text.max_position_embeddings)
            .map_err(refused)?;
        if tokenizer.vocabulary() != text.vocab_size {
            let (made, wanted) = (tokenizer.vocabulary(), text.vocab_size);
            return Err(refused(format!("make a vocabulary of {made}, text_encoder.vocab_size is {wanted}")));
        }
        let file = parts.text_encoder.open(&config.text_contract()?, device, precision)?;
        let text = TextEncoder::new(&config.text_encoder, &Scope::top(&Source::File(&file)))?;
        let file = parts.unet.open(&config.unet_contract()?, device, precision)?;
        let unet = Unet::new(&config.unet, &Scope::top(&Source::File(&file)))?;
        let file = parts.vae.open(&config.vae_contract()?, device, Precision::F32)?;
        let vae = Autoencoder::new(&config.vae, &Scope::top(&Source::File(&file)))?;
        let blank = text.forward(&tokenizer.encode("").map_err(refused)?)?;
        Ok(Self { config, size, tokenizer, text, unet, vae, blank, device: device.clone() })
    }

    /// Token numbers of a description.
    pub(crate) fn tokens(&self, prompt: &str) -> Result<Vec<u32>, ModelError> {
        self.tokenizer.encode(prompt).map_err(|_| ModelError::Sampling {
            field: "prompt",
            message: "the description cannot be read as text".to_owned(),
        })
    }

    /// What the UNet is told of a description.
    pub(crate) fn encode_text(&self, tokens: &[u32]) -> Result<Tensor, ModelError> {
        Ok(self.text.forward(tokens)?)
    }

    /// Pictures `[1, 3, h, w]` to latents.
    pub(crate) fn encode(&self, pictures: &Tensor) -> Result<Tensor, ModelError> {
        Ok(self.vae.encode(pictures)?)
    }

    /// Latents to pictures.
    pub(crate) fn decode(&self, latents: &Tensor) -> Result<Tensor, ModelError> {
        Ok(self.vae.decode(latents)?)
    }

    /// The UNet's answers, in f32 as everything that walks on.
    pub(crate) fn answer(&self, x: &Tensor, times: &[f64], context: &Tensor) -> Result<Tensor, ModelError> {
        Ok(self.unet.forward(x, times, context)?.to_dtype(DType::F32)?)
    }

    /// What stays of a picture `[1, 3, h, w]`, as much as `matte`, `[1, 1, h, w]` of 0 to 1, says.
    pub(crate) fn hold(&self, picture: &Tensor, matte: &Tensor) -> Result<Held, ModelError> {
        // A latent's pixel stands for a square of the picture's, so it is held as much as they are on average.
        let matte = matte.avg_pool2d(self.config.vae.reduction())?;
        Ok(Held { latent: self.encode(picture)?, matte })
    }

    /// Starts a walk at `noise`, `[1, c, h, w]`.
    pub(crate) fn start(
        &self,
        noise: Tensor,
        steps: u32,
        guidance: Guidance,
        conditions: &Conditions,
    ) -> Result<Walk, ModelError> {
        let schedule = Schedule::new(&self.config.sampler, steps);
        let x = match &conditions.held {
            Some(held) => held.over(&noise, &noise, &schedule, 0)?,
            None => noise.clone(),
        };
        let evaluations = Evaluations::default();
        Ok(Walk { x, noise, clean: None, schedule, step: 0, guidance, evaluations })
    }

    /// One step of every walk under its conditions: all conditional halves, then the unconditional ones of those that
    /// are guided, in one pass.
    pub(crate) fn advance(&self, walks: &mut [(&mut Walk, &Conditions)]) -> Result<(), ModelError> {
        let guided: Vec<usize> = (0..walks.len()).filter(|n| walks[*n].0.is_guided()).collect();
        let halves = (0..walks.len()).chain(guided.iter().copied());
        let inputs: Vec<&Tensor> = halves.clone().map(|n| &walks[n].0.x).collect();
        let times: Vec<f64> = halves.map(|n| walks[n].0.schedule.node(walks[n].0.step).time).collect();
        let mut contexts: Vec<&Tensor> = walks.iter().map(|(_, conditions)| &conditions.context).collect();
        contexts.extend(guided.iter().map(|_| &self.blank));
        let answers = self.answer(&Tensor::cat(&inputs, 0)?, &times, &Tensor::cat(&contexts, 0)?)?;
        let mut moved = Vec::with_capacity(walks.len());
        for (n, (walk, conditions)) in walks.iter().enumerate() {
            let mut answer = answers.narrow(0, n, 1)?;
            if let Some(at) = guided.iter().position(|guided| *guided == n) {
                let blank = answers.narrow(0, walks.len() + at, 1)?;
                answer = guidance::mix(&answer, &blank, walk.guidance.scale)?;
            }
            let (of_x, of_answer) = walk.schedule.node(walk.step).clean(self.config.sampler.prediction_type);
            let clean = ((&walk.x * of_x)? + (answer * of_answer)?)?;
            moved.push((walk.next(&clean, conditions)?, clean));
        }
        // Nothing has moved before all could.
        for (n, ((walk, _), (x, clean))) in walks.iter_mut().zip(moved).enumerate() {
            walk.x = x;
            walk.clean = Some(clean);
            walk.step += 1;
            for _ in 0..=usize::from(guided.contains(&n)) {
                walk.evaluations.count(true);
            }
        }
        Ok(())
    }

    /// Shape of a latent.
    fn latent_shape(&self) -> [usize; 4] {
        let [width, height] = self.size.map(|side| side as usize / self.config.vae.reduction());
        [1, self.config.vae.latent_channels, height, width]
    }
}

impl Held {
    /// `x`, which stands at that node, where it is free.
    fn over(
        &self,
        x: &Tensor,
        noise: &Tensor,
        schedule: &Schedule,
        node: usize,
    ) -> candle_core::Result<Tensor> {
        let latent = if node == schedule.steps() {
            // The decoder takes what it is given for clean, and some walks end a little before that.
            self.latent.clone()
        } else {
            let node = schedule.node(node);
            ((&self.latent * node.alpha)? + (noise * node.sigma)?)?
        };
        x + (latent - x)?.broadcast_mul(&self.matte)?
    }
}

impl Walk {
    fn is_guided(&self) -> bool {
        let time = self.schedule.node(self.step).progress() as f32;
        self.guidance.applies(time, self.step as u32, self.schedule.steps() as u32)
    }

    /// The latent after this step.
    fn next(&self, clean: &Tensor, conditions: &Conditions) -> candle_core::Result<Tensor> {
        let sum = self.schedule.step(self.step);
        let mut x = ((&self.x * sum.latent)? + (clean * sum.clean)?)?;
        if let Some(before) = &self.clean {
            x = (x + (before * sum.before)?)?;
        }
        match &conditions.held {
            Some(held) => held.over(&x, &self.noise, &self.schedule, self.step + 1),
            None => Ok(x),
        }
    }
}

impl PaintsWords for StableDiffusion {
    /// What the UNet is told, `[1, m, width]`.
    type Description = Tensor;

    fn describe(&self, prompt: &str) -> Result<Tensor, ModelError> {
        self.encode_text(&self.tokens(prompt)?)
    }

    fn prepare(&self, description: &Tensor, kept: Option<&Kept>) -> Result<Prepared, ModelError> {
        let hold = |Kept { picture, matte }: &Kept| {
            let (width, height) = (picture.width() as usize, picture.height() as usize);
            let planes = picture::to_planes(picture);
            let picture = Tensor::from_vec(planes, (1, 3, height, width), &self.device)?;
            let matte: Vec<f32> = matte.as_raw().iter().map(|byte| f32::from(*byte) / 255.0).collect();
            self.hold(&picture, &Tensor::from_vec(matte, (1, 1, height, width), &self.device)?)
        };
        let conditions = Conditions { context: description.clone(), held: kept.map(hold).transpose()? };
        Ok(Prepared { conditions, kept: kept.cloned() })
    }
}

impl Architecture for StableDiffusion {
    type Prepared = Prepared;
    type Sample = Sample;

    fn begin(&self, prepared: &Arc<Prepared>, sampling: &Sampling) -> Result<Sample, ModelError> {
        if let Some(&(field, must)) = method_mistakes(&sampling.method).first() {
            return Err(ModelError::Sampling { field, message: must.to_owned() });
        }
        let shape = self.latent_shape();
        let noise = noise::normals(sampling.seed, shape.iter().product());
        let noise = Tensor::from_vec(noise, &shape, &self.device)?;
        let guidance = config::guidance(sampling);
        let walk = self.start(noise, sampling.steps, guidance, &prepared.conditions)?;
        Ok(Sample { prepared: Arc::clone(prepared), walk })
    }

    fn step(&self, batch: &mut [&mut Sample]) -> Result<(), ModelError> {
        let mut walks: Vec<_> = batch
            .iter_mut()
            .map(|sample| {
                let Sample { prepared, walk } = &mut **sample;
                (walk, &prepared.conditions)
            })
            .collect();
        self.advance(&mut walks)?;
        // A GPU has only been told what to do so far: its failures and the time it takes belong to this step.
        Ok(self.device.synchronize()?)
    }

    fn evaluations(&self, sample: &Sample) -> Evaluations {
        sample.walk.evaluations
    }

    /// Without the decoder, which costs as much as several steps.
    fn preview(&self, sample: &Sample) -> Result<RgbImage, ModelError> {
        let [width, height] = self.size;
        let expected = sample.walk.clean.as_ref().unwrap_or(&sample.walk.x);
        Ok(sample.prepared.compose(latent::glimpse(expected, width, height)?))
    }

    /// What was to be kept is the given picture's bytes: through the autoencoder it would come back softer.
    fn finish(&self, sample: Sample) -> Result<RgbImage, ModelError> {
        let [width, height] = self.size;
        let planes = self.decode(&sample.walk.x)?.flatten_all()?.to_vec1::<f32>()?;
        Ok(sample.prepared.compose(picture::from_planes(&planes, width, height)))
    }
}

impl Prepared {
    fn compose(&self, painted: RgbImage) -> RgbImage {
        match &self.kept {
            Some(kept) => kept.over(&painted),
            None => painted,
        }
    }
}
