//! The fused loops of NVIDIA GPUs: what lies between the matrix products of a block, each chain one kernel.
//!
//! One kernel for every operation would move several times as many bytes, and those kernels, not the matrix
//! products, would be most of a pass.

mod launch;

use candle_core::{Result, Tensor, bail};

use self::launch::{Kernel, Lent, blank};
use super::attention::Stream;
use super::linear::After;
use super::modulation::Pieces;
use super::norm::EPSILON;
use super::rope::Rope;

/// Bytes of shared memory that every GPU gives to a block, less what the sums of a norm take.
const SHARED_MAX: usize = 48 * 1024 - 128;

/// `(1 + scale) * layer_norm(x) + shift` over the last dimension of `[b, n, width]`, without gaps; shift is piece
/// `n` of the pieces, scale the next.
pub(crate) fn modulated(x: &Tensor, pieces: &Pieces<'_>, n: usize) -> Result<Tensor> {
    const THREADS: usize = 128;
    let (b, rows, width) = x.dims3()?;
    let shared = width * size_of::<f32>();
    if shared > SHARED_MAX {
        bail!("a row of {width} numbers is wider than the norm's kernel can hold");
    }
    let out = blank((b, rows, width), x)?;
    {
        let (to, x, piece) = (Lent::new(&out)?, Lent::new(x)?, Lent::piece(pieces, n)?);
        Kernel::new("modulated_norm", &[&to, &x, &piece])
            .address(&to)
            .rows(&x)
            .address(&piece)
            .size(piece.entry)
            .count(rows)
            .count(width)
            .number(EPSILON)
            .launch(b * rows, THREADS, shared)?;
    }
    Ok(out)
}

/// Tensors `[b, n, ..]` side by side, without gaps.
pub(crate) fn side_by_side(sources: &[&Tensor]) -> Result<Tensor> {
    if let [one] = sources
        && one.is_contiguous()
    {
        return Ok((*one).clone());
    }
    let (b, n, _) = sources[0].dims3()?;
    let width = sources.iter().map(|source| source.dims()[2]).sum();
    let out = blank((b, n, width), sources[0])?;
    let mut column = 0;
    for source in sources {
        let width = source.dims()[2];
        copy(source, &out.narrow(2, column, width)?)?;
        column += width;
    }
    Ok(out)
}

/// What follows a matrix product `y`, `[b, n, width]` without gaps, which is overwritten.
pub(crate) fn finish(y: Tensor, bias: Option<&Tensor>, after: &After<'_>) -> Result<Tensor> {
    let (b, n, width) = y.dims3()?;
    let active = match after {
        After::Nothing if bias.is_none() => return Ok(y),
        After::Nothing => width,
        After::Gelu(from) => *from,
        After::Gated(residual, pieces, gate) => {
            gated(&y, bias, residual, pieces, *gate)?;
            return Ok(y);
        }
    };
    let bias = bias.map(Lent::row).transpose()?;
    let to = Lent::new(&y)?;
    Kernel::new("add_bias", &[Some(&to), bias.as_ref()].into_iter().flatten().collect::<Vec<_>>())
        .address(&to)
        .optional(bias.as_ref())
        .count(b * n)
        .count(width)
        .count(active)
        .launch_packs(b * n * width)?;
    drop((to, bias));
    Ok(y)
}

fn gated(
    y: &Tensor,
    bias: Option<&Tensor>,
    residual: &Tensor,
    pieces: &Pieces<'_>,
    gate: usize,
) -> Result<()> {
    let (b, n, width) = y.dims3()?;
    let bias = bias.map(Lent::row).transpose()?;
    let (to, residual, gate) = (Lent::new(y)?, Lent::new(residual)?, Lent::piece(pieces, gate)?);
    let all = [Some(&to), Some(&residual), Some(&gate), bias.as_ref()];
    Kernel::new("add_gated", &all.into_iter().flatten().collect::<Vec<_>>())
        .address(&to)
        .optional(bias.as_ref())
        .rows(&residual)
        .address(&gate)
        .size(gate.entry)
        .count(b)
        .count(n)
        .count(width)
        .launch_packs(b * n * width)
}

fn copy(x: &Tensor, out: &Tensor) -> Result<()> {
    let (b, n, width) = x.dims3()?;
    let (to, x) = (Lent::new(out)?, Lent::new(x)?);
    Kernel::new("copy_rows", &[&to, &x])
        .rows(&to)
        .rows(&x)
        .count(b)
        .count(n)
        .count(width)
        .launch_packs(b * n * width)
}

/// Whether heads of that many numbers are normed and turned here: pairs must lie where pairs can be read.
pub(crate) fn takes(streams: &[Stream<'_>], head: usize) -> bool {
    let even =
        |x: &Tensor| x.layout().start_offset() % 2 == 0 && x.stride()[..2].iter().all(|by| by % 2 == 0);
    streams[0].keys.device().is_cuda()
        && head.is_multiple_of(2)
        && streams.iter().all(|stream| stream.queries.iter().chain([&stream.keys]).all(even))
}

/// Queries, keys and values of all streams, one stream after the other: `[b, tokens, heads, head]` each, queries and
/// keys normed by head and turned by position.
pub(crate) fn gathered(streams: &[Stream<'_>], heads: usize, rope: &Rope) -> Result<[Tensor; 3]> {
    let (b, _, width) = streams[0].keys.dims3()?;
    let gather = |parts: &[(&Tensor, Option<&Tensor>)]| {
        let tokens = parts.iter().map(|(x, _)| x.dims()[1]).sum::<usize>();
        let out = blank((b, tokens, width), parts[0].0)?;
        let mut token = 0;
        for (x, scale) in parts {
            let count = x.dims()[1];
            let out = out.narrow(1, token, count)?;
            match scale {
                Some(scale) => norm_and_turn(x, &out, scale, heads, rope)?,
                None => copy(x, &out)?,
            }
            token += count;
        }
        out.reshape((b, tokens, heads, width / heads))
    };
    let scales = streams.iter().map(|stream| stream.norms.scales());
    let queries: Vec<_> = streams
        .iter()
        .zip(scales.clone())
        .filter_map(|(stream, (scale, _))| Some((stream.queries.as_ref()?, Some(scale))))
        .collect();
    let keys: Vec<_> =
        streams.iter().zip(scales).map(|(stream, (_, scale))| (&stream.keys, Some(scale))).collect();
    let values: Vec<_> = streams.iter().map(|stream| (&stream.values, None)).collect();
    Ok([gather(&queries)?, gather(&keys)?, gather(&values)?])
}

fn norm_and_turn(x: &Tensor, out: &Tensor, scale: &Tensor, heads: usize, rope: &Rope) -> Result<()> {
    const THREADS: usize = 256;
    const WARP: usize = 32;
    let (b, n, width) = x.dims3()?;
    let (cosines, sines) = rope.tables();
    let grid = cosines.dims()[0];
    let (to, x, scale) = (Lent::new(out)?, Lent::new(x)?, Lent::row(scale)?);
    let (cosines, sines) = (Lent::new(cosines)?, Lent::new(sines)?);
    Kernel::new("norm_and_turn", &[&to, &x])
        .rows(&to)
        .rows(&x)
        .address(&scale)
        .address(&cosines)
        .address(&sines)
        .count(b)
        .count(n)
        .count(grid)
        .count(heads)
        .count(width / heads)
        .number(EPSILON)
        .launch_pairs((b * n * heads * WARP).div_ceil(THREADS), THREADS)
}
