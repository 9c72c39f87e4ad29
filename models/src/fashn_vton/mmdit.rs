//! The network: person tokens and garment tokens through double blocks, then through single blocks.
//!
//! Source: github.com/fashn-AI/fashn-vton-1.5 at 7c0f10a, the `TryOnModel` module. Garment tokens come
//! first wherever both streams are one sequence; both grids have the same positions.

use candle_core::{DType, Device, Result, Tensor};

use super::config::Config;
use crate::layers::attention::{Stream as Heads, attend};
use crate::layers::linear::{After, Linear};
use crate::layers::modulation::{Modulations, Pieces, Place};
use crate::layers::norm::HeadNorms;
use crate::layers::rope::Rope;
use crate::trace::Trace;
use crate::weights::Tensors;

/// Sinusoids of the timestep embedding: cosines, then as many sines.
const WAVES: usize = 128;

/// What goes through the blocks; row `i` of each belongs to one sample or to its unconditional half.
#[derive(Clone)]
pub(crate) struct Rows {
    /// Person tokens, `[b, n, d]`.
    pub(crate) person: Tensor,
    /// Garment tokens, `[b, n, d]`.
    pub(crate) garment: Tensor,
    /// Rows of [`Mmdit::modulations`], `[b, columns]`.
    pub(crate) modulations: Tensor,
}

impl Rows {
    /// Some of the rows, in that order.
    pub(crate) fn select(&self, rows: &[usize]) -> Result<Self> {
        if rows.iter().copied().eq(0..self.person.dim(0)?) {
            return Ok(self.clone());
        }
        let rows: Vec<u32> = rows.iter().map(|row| *row as u32).collect();
        let rows = Tensor::new(rows, self.person.device())?;
        let of = |tensor: &Tensor| tensor.index_select(&rows, 0);
        Ok(Self {
            person: of(&self.person)?,
            garment: of(&self.garment)?,
            modulations: of(&self.modulations)?,
        })
    }
}

/// The network.
///
/// A pass is [`Self::open`], [`Self::deepen`] and [`Self::close`] one after the other, so that whoever
/// remembers what lies between the first block and the last layer can leave the middle out.
pub(crate) struct Mmdit {
    time: [Linear; 2],
    category: Option<Tensor>,
    noise: Linear,
    person: Linear,
    garment: Linear,
    modulations: Modulations,
    mixers: Vec<SingleBlock>,
    doubles: Vec<DoubleBlock>,
    singles: Vec<SingleBlock>,
    /// The last single block, which nobody asks for garment tokens.
    parting: Option<PartingBlock>,
    last: FinalLayer,
    rope: Rope,
    device: Device,
    dtype: DType,
}

impl Mmdit {
    /// Builds the network from the tensors of a checkpoint that passed [`Config::contract`].
    pub(crate) fn load(config: &Config, tensors: &Tensors<'_>) -> Result<Self> {
        let mut modulations = Modulations::new(config.hidden_size);
        let mut singles = |name: &str, depth: usize| {
            (0..depth)
                .map(|n| SingleBlock::load(config, tensors, &mut modulations, &format!("{name}.{n}")))
                .collect::<Result<Vec<_>>>()
        };
        let mixers = singles("x_patch_mixer", config.mixers())?;
        let mut singles = singles("single_blocks", config.single_blocks_depth)?;
        let parting = singles.pop().map(|block| {
            let name = format!("single_blocks.{}", singles.len());
            PartingBlock::load(block, tensors, &name)
        });
        let [noise, person] = person_embedders(config, tensors)?;
        let f32_tensor = |name: &str| tensors.get(name)?.to_dtype(DType::F32);
        let time = |name: &str| {
            let layer = |part: &str| f32_tensor(&format!("t_embedder.mlp.{name}.{part}"));
            Linear::new(&layer("weight")?, Some(layer("bias")?))
        };
        Ok(Self {
            time: [time("in_layer")?, time("out_layer")?],
            category: if config.n_classes > 0 { Some(f32_tensor("y_embedder.weight")?) } else { None },
            noise,
            person,
            garment: Linear::new(
                &tensors.get("garment_embedder.proj.weight")?.flatten_from(1)?,
                Some(tensors.get("garment_embedder.proj.bias")?),
            )?,
            mixers,
            doubles: (0..config.double_blocks_depth)
                .map(|n| DoubleBlock::load(config, tensors, &mut modulations, &format!("double_blocks.{n}")))
                .collect::<Result<_>>()?,
            singles,
            parting: parting.transpose()?,
            last: FinalLayer::load(tensors, &mut modulations)?,
            rope: Rope::new(config.grid(), &config.axes_dim, config.theta, config.n_heads, tensors.device())?,
            modulations,
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

    /// What all blocks take from time and category, a row for each pair: all that a pass needs to know of them.
    /// Times run from 0 (noise) to 1 (picture); category 0 is none.
    pub(crate) fn modulations(&self, at: &[(f32, u32)], trace: &mut Trace) -> Result<Tensor> {
        let (times, categories): (Vec<f32>, Vec<u32>) = at.iter().copied().unzip();
        let mut vector = self.embed_times(&times)?;
        trace.note(|| "t_embedder".to_owned(), &vector);
        if let Some(table) = &self.category {
            vector = (vector + table.index_select(&Tensor::new(categories, &self.device)?, 0)?)?;
        }
        self.modulations.table(&vector.silu()?)
    }

    /// The first block. A network in which none comes before the single blocks gives the rows back.
    pub(crate) fn open(&self, rows: &Rows, trace: &mut Trace) -> Result<Rows> {
        self.stem(rows, 0, 1, trace)
    }

    /// The other blocks: person tokens for the last layer, `[b, n, d]`.
    pub(crate) fn deepen(&self, opened: &Rows, trace: &mut Trace) -> Result<Tensor> {
        let rows = self.stem(opened, 1, self.mixers.len() + self.doubles.len(), trace)?;
        let pass = self.pass(&rows.modulations);
        let n = rows.garment.dim(1)?;
        let mut both = Tensor::cat(&[&rows.garment, &rows.person], 1)?;
        for (at, block) in self.singles.iter().enumerate() {
            both = block.forward(&both, pass)?;
            trace.note(|| format!("single_blocks.{at}"), &both);
        }
        let person = both.narrow(1, n, n)?;
        let Some(block) = &self.parting else { return Ok(person) };
        let person = block.forward(&both.narrow(1, 0, n)?, &person, pass)?;
        trace.note(|| format!("single_blocks.{}", self.singles.len()), &person);
        Ok(person)
    }

    /// The last layer: the velocity in patches, `[b, n, patch]` in f32, from person tokens.
    pub(crate) fn close(&self, person: &Tensor, modulations: &Tensor, trace: &mut Trace) -> Result<Tensor> {
        let velocity = self.last.forward(person, self.pass(modulations))?.to_dtype(DType::F32)?;
        trace.note(|| "final_layer".to_owned(), &velocity);
        Ok(velocity)
    }

    /// Blocks `from` to `to`, not included, of mixers and double blocks in a row.
    fn stem(&self, rows: &Rows, from: usize, to: usize, trace: &mut Trace) -> Result<Rows> {
        let mut rows = rows.clone();
        let modulations = rows.modulations.clone();
        let pass = self.pass(&modulations);
        let taken = |first: usize, count: usize| {
            let local = |n: usize| n.saturating_sub(first).min(count);
            local(from)..local(to)
        };
        for n in taken(0, self.mixers.len()) {
            rows.person = self.mixers[n].forward(&rows.person, pass)?;
            trace.note(|| format!("patch_mixer.{n}"), &rows.person);
        }
        for n in taken(self.mixers.len(), self.doubles.len()) {
            (rows.person, rows.garment) = self.doubles[n].forward(&rows.person, &rows.garment, pass)?;
            trace.note(|| format!("double_blocks.{n}.img"), &rows.person);
            trace.note(|| format!("double_blocks.{n}.garment"), &rows.garment);
        }
        Ok(rows)
    }

    fn pass<'a>(&'a self, rows: &'a Tensor) -> Pass<'a> {
        Pass { modulations: &self.modulations, rows, rope: &self.rope }
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
        let waves = Tensor::from_vec(waves, (1, times.len(), 2 * WAVES), &self.device)?;
        let [into, out] = &self.time;
        out.forward(&into.forward(&waves)?.silu()?)?.squeeze(0)
    }
}

/// What every block of a pass is told.
#[derive(Clone, Copy)]
struct Pass<'a> {
    modulations: &'a Modulations,
    rows: &'a Tensor,
    rope: &'a Rope,
}

impl<'a> Pass<'a> {
    fn pieces(&self, place: Place) -> Pieces<'a> {
        self.modulations.pieces(self.rows, place)
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
    modulation: Place,
    into: Linear,
    out: Linear,
    norms: HeadNorms,
    heads: usize,
    width: usize,
    inner: usize,
}

impl SingleBlock {
    fn load(
        config: &Config,
        tensors: &Tensors<'_>,
        modulations: &mut Modulations,
        name: &str,
    ) -> Result<Self> {
        Ok(Self {
            modulation: modulations.load(tensors, &format!("{name}.modulation.lin"))?,
            into: Linear::load(tensors, &format!("{name}.linear1"))?,
            out: Linear::load(tensors, &format!("{name}.linear2"))?,
            norms: HeadNorms::load(tensors, &format!("{name}.norm"))?,
            heads: config.n_heads,
            width: config.hidden_size,
            inner: config.inner(),
        })
    }

    /// `[b, n, d]` to the same.
    fn forward(&self, x: &Tensor, pass: Pass<'_>) -> Result<Tensor> {
        self.seeing(x, None, pass)
    }

    /// The same where the tokens of `x` also attend to those of another stream, which come first.
    fn seeing(&self, x: &Tensor, other: Option<Heads<'_>>, pass: Pass<'_>) -> Result<Tensor> {
        let pieces = pass.pieces(self.modulation);
        // (b, n, 3 d + inner)
        let both = self.into.fused(&[x], Some((pieces, 0)), &After::Gelu(3 * self.width))?;
        let mlp = both.narrow(2, 3 * self.width, self.inner)?;
        let own = Heads::asking(&both, self.width, &self.norms)?;
        let streams: Vec<_> = other.into_iter().chain([own]).collect();
        let attention = attend(&streams, self.heads, pass.rope)?;
        self.out.fused(&[&attention, &mlp], None, &After::Gated(x, pieces, 2))
    }
}

/// The last single block: the garment's tokens end here, so nothing is made of them but keys and values.
struct PartingBlock {
    block: SingleBlock,
    garment: Linear,
}

impl PartingBlock {
    fn load(block: SingleBlock, tensors: &Tensors<'_>, name: &str) -> Result<Self> {
        let part = |part: &str| {
            tensors.get(&format!("{name}.linear1.{part}"))?.narrow(0, block.width, 2 * block.width)
        };
        let garment = Linear::new(&part("weight")?, Some(part("bias")?))?;
        Ok(Self { block, garment })
    }

    /// Garment and person tokens, `[b, n, d]` each, to person tokens.
    fn forward(&self, garment: &Tensor, person: &Tensor, pass: Pass<'_>) -> Result<Tensor> {
        let pieces = pass.pieces(self.block.modulation);
        let kv = self.garment.fused(&[garment], Some((pieces, 0)), &After::Nothing)?;
        let garment = Heads::silent(&kv, self.block.width, &self.block.norms)?;
        self.block.seeing(person, Some(garment), pass)
    }
}

/// Two streams that meet in attention only.
struct DoubleBlock {
    person: Stream,
    garment: Stream,
    heads: usize,
    width: usize,
}

impl DoubleBlock {
    fn load(
        config: &Config,
        tensors: &Tensors<'_>,
        modulations: &mut Modulations,
        name: &str,
    ) -> Result<Self> {
        Ok(Self {
            person: Stream::load(tensors, modulations, &format!("{name}.img"))?,
            garment: Stream::load(tensors, modulations, &format!("{name}.txt"))?,
            heads: config.n_heads,
            width: config.hidden_size,
        })
    }

    fn forward(&self, person: &Tensor, garment: &Tensor, pass: Pass<'_>) -> Result<(Tensor, Tensor)> {
        let n = garment.dim(1)?;
        let of_person = pass.pieces(self.person.modulation);
        let of_garment = pass.pieces(self.garment.modulation);
        let garment_qkv = self.garment.qkv.fused(&[garment], Some((of_garment, 0)), &After::Nothing)?;
        let person_qkv = self.person.qkv.fused(&[person], Some((of_person, 0)), &After::Nothing)?;
        let streams = [
            Heads::asking(&garment_qkv, self.width, &self.garment.norms)?,
            Heads::asking(&person_qkv, self.width, &self.person.norms)?,
        ];
        let mixed = attend(&streams, self.heads, pass.rope)?; // (b, 2 n, d)
        let person = self.person.rest(person, &mixed.narrow(1, n, n)?, of_person)?;
        let garment = self.garment.rest(garment, &mixed.narrow(1, 0, n)?, of_garment)?;
        Ok((person, garment))
    }
}

/// The layers of one stream of a double block.
struct Stream {
    modulation: Place,
    qkv: Linear,
    norms: HeadNorms,
    proj: Linear,
    up: Linear,
    down: Linear,
}

impl Stream {
    fn load(tensors: &Tensors<'_>, modulations: &mut Modulations, name: &str) -> Result<Self> {
        Ok(Self {
            modulation: modulations.load(tensors, &format!("{name}_mod.lin"))?,
            qkv: Linear::load(tensors, &format!("{name}_attn.qkv"))?,
            norms: HeadNorms::load(tensors, &format!("{name}_attn.norm"))?,
            proj: Linear::load(tensors, &format!("{name}_attn.proj"))?,
            up: Linear::load(tensors, &format!("{name}_mlp.0"))?,
            down: Linear::load(tensors, &format!("{name}_mlp.2"))?,
        })
    }

    /// What follows attention: projection and MLP, each gated and added.
    fn rest(&self, x: &Tensor, attention: &Tensor, pieces: Pieces<'_>) -> Result<Tensor> {
        let x = self.proj.fused(&[attention], None, &After::Gated(x, pieces, 2))?;
        let inner = self.up.fused(&[&x], Some((pieces, 3)), &After::Gelu(0))?;
        self.down.fused(&[&inner], None, &After::Gated(&x, pieces, 5))
    }
}

struct FinalLayer {
    modulation: Place,
    linear: Linear,
}

impl FinalLayer {
    fn load(tensors: &Tensors<'_>, modulations: &mut Modulations) -> Result<Self> {
        Ok(Self {
            modulation: modulations.load(tensors, "final_layer.adaLN_modulation.1")?,
            linear: Linear::load(tensors, "final_layer.linear")?,
        })
    }

    fn forward(&self, x: &Tensor, pass: Pass<'_>) -> Result<Tensor> {
        self.linear.fused(&[x], Some((pass.pieces(self.modulation), 0)), &After::Nothing)
    }
}
