//! The network: person tokens and garment tokens through double blocks, then through single blocks.
//!
//! Source: github.com/fashn-AI/fashn-vton-1.5 at 7c0f10a, the `TryOnModel` module. Garment tokens come
//! first wherever both streams are one sequence; both grids have the same positions.

use candle_core::{DType, Device, Result, Tensor};

use super::config::Config;
use crate::layers::attention::{Stream as Heads, attend};
use crate::layers::linear::{After, Linear};
use crate::layers::modulation::{Modulation, Pieces};
use crate::layers::norm::HeadNorms;
use crate::layers::rope::Rope;
use crate::trace::Trace;
use crate::weights::Tensors;

/// Sinusoids of the timestep embedding: cosines, then as many sines.
const WAVES: usize = 128;

/// One forward pass's arguments; row `i` of each belongs to one sample or to its unconditional half.
pub(crate) struct Rows {
    /// Embedded person tokens, `[b, n, d]`.
    pub(crate) person: Tensor,
    /// Embedded garment tokens, `[b, n, d]`.
    pub(crate) garment: Tensor,
    /// Times from 0 (noise) to 1 (picture).
    pub(crate) times: Vec<f32>,
    /// Garment categories; 0 is none.
    pub(crate) categories: Vec<u32>,
}

/// The network.
pub(crate) struct Mmdit {
    time: [Linear; 2],
    category: Option<Tensor>,
    noise: Linear,
    person: Linear,
    garment: Linear,
    mixers: Vec<SingleBlock>,
    doubles: Vec<DoubleBlock>,
    singles: Vec<SingleBlock>,
    last: FinalLayer,
    rope: Rope,
    device: Device,
    dtype: DType,
}

impl Mmdit {
    /// Builds the network from the tensors of a checkpoint that passed [`Config::contract`].
    pub(crate) fn load(config: &Config, tensors: &Tensors<'_>) -> Result<Self> {
        let singles = |name: &str, depth: usize| {
            (0..depth)
                .map(|n| SingleBlock::load(config, tensors, &format!("{name}.{n}")))
                .collect::<Result<Vec<_>>>()
        };
        let [noise, person] = person_embedders(config, tensors)?;
        Ok(Self {
            time: [
                Linear::load(tensors, "t_embedder.mlp.in_layer")?,
                Linear::load(tensors, "t_embedder.mlp.out_layer")?,
            ],
            category: if config.n_classes > 0 { Some(tensors.get("y_embedder.weight")?) } else { None },
            noise,
            person,
            garment: Linear::new(
                &tensors.get("garment_embedder.proj.weight")?.flatten_from(1)?,
                Some(tensors.get("garment_embedder.proj.bias")?),
            )?,
            mixers: singles("x_patch_mixer", config.mixers())?,
            doubles: (0..config.double_blocks_depth)
                .map(|n| DoubleBlock::load(config, tensors, &format!("double_blocks.{n}")))
                .collect::<Result<_>>()?,
            singles: singles("single_blocks", config.single_blocks_depth)?,
            last: FinalLayer::load(config, tensors)?,
            rope: Rope::new(config.grid(), &config.axes_dim, config.theta, tensors.device())?,
            device: tensors.device().clone(),
            dtype: tensors.dtype(),
        })
    }

    /// Where the network runs.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// The part of the person embedding that changes from step to step: `[b, n, patch]` to `[b, n, d]`.
    pub(crate) fn embed_noise(&self, x: &Tensor) -> Result<Tensor> {
        self.noise.forward(&x.to_dtype(self.dtype)?)
    }

    /// The part that does not: patches of (person ‖ pose).
    pub(crate) fn embed_person(&self, patches: &Tensor) -> Result<Tensor> {
        self.person.forward(&patches.to_dtype(self.dtype)?)
    }

    /// Garment tokens from patches of (garment ‖ pose).
    pub(crate) fn embed_garment(&self, patches: &Tensor) -> Result<Tensor> {
        self.garment.forward(&patches.to_dtype(self.dtype)?)
    }

    /// The velocity in patches, `[b, n, patch]`, in f32 whatever the network computes in.
    pub(crate) fn forward(&self, rows: &Rows, trace: &mut Trace) -> Result<Tensor> {
        let mut vector = self.embed_times(&rows.times)?;
        trace.note(|| "t_embedder".to_owned(), &vector);
        if let Some(table) = &self.category {
            let categories = Tensor::new(rows.categories.as_slice(), &self.device)?;
            vector = (vector + table.index_select(&categories, 0)?)?;
        }
        let active = vector.silu()?;

        let (mut person, mut garment) = (rows.person.clone(), rows.garment.clone());
        for (n, block) in self.mixers.iter().enumerate() {
            person = block.forward(&person, &active, &self.rope)?;
            trace.note(|| format!("patch_mixer.{n}"), &person);
        }
        for (n, block) in self.doubles.iter().enumerate() {
            (person, garment) = block.forward(&person, &garment, &active, &self.rope)?;
            trace.note(|| format!("double_blocks.{n}.img"), &person);
            trace.note(|| format!("double_blocks.{n}.garment"), &garment);
        }
        let n = garment.dim(1)?;
        let mut both = Tensor::cat(&[&garment, &person], 1)?;
        for (n, block) in self.singles.iter().enumerate() {
            both = block.forward(&both, &active, &self.rope)?;
            trace.note(|| format!("single_blocks.{n}"), &both);
        }
        let velocity = self.last.forward(&both.narrow(1, n, n)?, &active)?;
        trace.note(|| "final_layer".to_owned(), &velocity);
        velocity.to_dtype(DType::F32)
    }

    fn embed_times(&self, times: &[f32]) -> Result<Tensor> {
        let mut waves = Vec::with_capacity(times.len() * 2 * WAVES);
        for time in times {
            let angle = |n: usize| {
                let frequency = (-(10_000f32.ln()) * n as f32 / WAVES as f32).exp();
                time * 1000.0 * frequency
            };
            waves.extend((0..WAVES).map(|n| angle(n).cos()));
            waves.extend((0..WAVES).map(|n| angle(n).sin()));
        }
        let waves = Tensor::from_vec(waves, (times.len(), 2 * WAVES), &self.device)?;
        let waves = waves.to_dtype(self.dtype)?.unsqueeze(1)?;
        let [into, out] = &self.time;
        out.forward(&into.forward(&waves)?.silu()?)?.squeeze(1)
    }
}

/// The embedder of (noise ‖ person ‖ pose) is linear, so it splits by channels; the bias goes with the
/// part that is computed once.
fn person_embedders(config: &Config, tensors: &Tensors<'_>) -> Result<[Linear; 2]> {
    let weight = tensors.get("x_embedder.proj.weight")?; // (d, channels, p, p)
    let channels = config.channels_in;
    let noise = weight.narrow(1, 0, channels)?.flatten_from(1)?;
    let person = weight.narrow(1, channels, channels + 1)?.flatten_from(1)?;
    Ok([Linear::new(&noise, None)?, Linear::new(&person, Some(tensors.get("x_embedder.proj.bias")?))?])
}

/// One stream: attention and MLP read the same normed tokens.
struct SingleBlock {
    modulation: Modulation,
    into: Linear,
    out: Linear,
    norms: HeadNorms,
    heads: usize,
    width: usize,
    inner: usize,
}

impl SingleBlock {
    fn load(config: &Config, tensors: &Tensors<'_>, name: &str) -> Result<Self> {
        Ok(Self {
            modulation: Modulation::load(tensors, &format!("{name}.modulation.lin"), config.hidden_size)?,
            into: Linear::load(tensors, &format!("{name}.linear1"))?,
            out: Linear::load(tensors, &format!("{name}.linear2"))?,
            norms: HeadNorms::load(tensors, &format!("{name}.norm"))?,
            heads: config.n_heads,
            width: config.hidden_size,
            inner: config.inner(),
        })
    }

    /// `[b, n, d]` to the same.
    fn forward(&self, x: &Tensor, active: &Tensor, rope: &Rope) -> Result<Tensor> {
        let pieces = self.modulation.forward(active)?;
        // (b, n, 3 d + inner)
        let both = self.into.fused(&[x], Some((&pieces, 0)), &After::Gelu(3 * self.width))?;
        let qkv = both.narrow(2, 0, 3 * self.width)?;
        let mlp = both.narrow(2, 3 * self.width, self.inner)?;
        let attention = attend(&[Heads { qkv: &qkv, norms: &self.norms }], self.heads, rope)?;
        self.out.fused(&[&attention, &mlp], None, &After::Gated(x, &pieces, 2))
    }
}

/// Two streams that meet in attention only.
struct DoubleBlock {
    person: Stream,
    garment: Stream,
    heads: usize,
}

impl DoubleBlock {
    fn load(config: &Config, tensors: &Tensors<'_>, name: &str) -> Result<Self> {
        Ok(Self {
            person: Stream::load(config, tensors, &format!("{name}.img"))?,
            garment: Stream::load(config, tensors, &format!("{name}.txt"))?,
            heads: config.n_heads,
        })
    }

    fn forward(
        &self,
        person: &Tensor,
        garment: &Tensor,
        active: &Tensor,
        rope: &Rope,
    ) -> Result<(Tensor, Tensor)> {
        let n = garment.dim(1)?;
        let (of_person, of_garment) =
            (self.person.modulation.forward(active)?, self.garment.modulation.forward(active)?);
        let garment_qkv = self.garment.qkv.fused(&[garment], Some((&of_garment, 0)), &After::Nothing)?;
        let person_qkv = self.person.qkv.fused(&[person], Some((&of_person, 0)), &After::Nothing)?;
        let streams = [
            Heads { qkv: &garment_qkv, norms: &self.garment.norms },
            Heads { qkv: &person_qkv, norms: &self.person.norms },
        ];
        let mixed = attend(&streams, self.heads, rope)?; // (b, 2 n, d)
        let person = self.person.rest(person, &mixed.narrow(1, n, n)?, &of_person)?;
        let garment = self.garment.rest(garment, &mixed.narrow(1, 0, n)?, &of_garment)?;
        Ok((person, garment))
    }
}

/// The layers of one stream of a double block.
struct Stream {
    modulation: Modulation,
    qkv: Linear,
    norms: HeadNorms,
    proj: Linear,
    up: Linear,
    down: Linear,
}

impl Stream {
    fn load(config: &Config, tensors: &Tensors<'_>, name: &str) -> Result<Self> {
        Ok(Self {
            modulation: Modulation::load(tensors, &format!("{name}_mod.lin"), config.hidden_size)?,
            qkv: Linear::load(tensors, &format!("{name}_attn.qkv"))?,
            norms: HeadNorms::load(tensors, &format!("{name}_attn.norm"))?,
            proj: Linear::load(tensors, &format!("{name}_attn.proj"))?,
            up: Linear::load(tensors, &format!("{name}_mlp.0"))?,
            down: Linear::load(tensors, &format!("{name}_mlp.2"))?,
        })
    }

    /// What follows attention: projection and MLP, each gated and added.
    fn rest(&self, x: &Tensor, attention: &Tensor, pieces: &Pieces) -> Result<Tensor> {
        let x = self.proj.fused(&[attention], None, &After::Gated(x, pieces, 2))?;
        let inner = self.up.fused(&[&x], Some((pieces, 3)), &After::Gelu(0))?;
        self.down.fused(&[&inner], None, &After::Gated(&x, pieces, 5))
    }
}

struct FinalLayer {
    modulation: Modulation,
    linear: Linear,
}

impl FinalLayer {
    fn load(config: &Config, tensors: &Tensors<'_>) -> Result<Self> {
        Ok(Self {
            modulation: Modulation::load(tensors, "final_layer.adaLN_modulation.1", config.hidden_size)?,
            linear: Linear::load(tensors, "final_layer.linear")?,
        })
    }

    fn forward(&self, x: &Tensor, active: &Tensor) -> Result<Tensor> {
        let pieces = self.modulation.forward(active)?;
        self.linear.fused(&[x], Some((&pieces, 0)), &After::Nothing)
    }
}
