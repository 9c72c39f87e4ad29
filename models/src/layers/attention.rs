//! Attention of every token to every token.

use candle_core::{D, DType, Device, Result, Tensor};

use super::cpu;
use super::cpu::view::{Lent, lendable};
use super::norm::HeadNorms;
use super::rope::Rope;

/// Scores held at a time where attention is not fused: 1 GiB of them, well below the 2^31 at which the
/// indices of CUDA's softmax overflow.
const SCORES_MAX: usize = 1 << 28;

/// Queries, keys and values of one stream, `[b, n, 3 * width]`, and how its heads are normed.
#[derive(Clone, Copy)]
pub(crate) struct Stream<'a> {
    /// May be a view into wider rows.
    pub(crate) qkv: &'a Tensor,
    /// Scales of the RMS norms.
    pub(crate) norms: &'a HeadNorms,
}

/// `softmax(q k^T / sqrt(head)) v` over the tokens of all streams, one after the other: `[b, n, width]`.
/// Queries and keys are normed by head and turned by position before.
pub(crate) fn attend(streams: &[Stream<'_>], heads: usize, rope: &Rope) -> Result<Tensor> {
    if lendable(streams[0].qkv) { on_cpu(streams, heads, rope) } else { plain(streams, heads, rope) }
}

fn plain(streams: &[Stream<'_>], heads: usize, rope: &Rope) -> Result<Tensor> {
    let (mut q, mut k, mut v) = (Vec::new(), Vec::new(), Vec::new());
    for Stream { qkv, norms } in streams {
        let (b, n, width) = qkv.dims3()?;
        let cut = qkv
            .reshape((b, n, 3, heads, width / (3 * heads)))? // (b, n, 3, heads, head)
            .permute((2, 0, 3, 1, 4))?; // (3, b, heads, n, head)
        q.push(rope.rotate(&norms.query(&cut.get(0)?)?)?);
        k.push(rope.rotate(&norms.key(&cut.get(1)?)?)?);
        v.push(cut.get(2)?);
    }
    let (q, k, v) = (Tensor::cat(&q, 2)?, Tensor::cat(&k, 2)?, Tensor::cat(&v, 2)?);
    let scale = 1.0 / (q.dim(D::Minus1)? as f64).sqrt();
    #[cfg(feature = "flash-attn")]
    if fused_on_cuda(&q)? {
        let [q, k, v] = [q.transpose(1, 2)?, k.transpose(1, 2)?, v.transpose(1, 2)?];
        return candle_flash_attn::flash_attn(&q, &k, &v, scale as f32, false)?.flatten_from(2);
    }
    by_softmax(&q, &k, &v, scale)?.transpose(1, 2)?.flatten_from(2)
}

/// Whether the fused kernels take these heads: halves on CUDA, up to the widest head that
/// `scripts/build-cuda` compiles them for.
#[cfg(feature = "flash-attn")]
fn fused_on_cuda(q: &Tensor) -> Result<bool> {
    const HEAD_MAX: usize = 128;
    let head = q.dim(D::Minus1)?;
    Ok(q.device().is_cuda()
        && matches!(q.dtype(), DType::F16 | DType::BF16)
        && head <= HEAD_MAX
        && head.is_multiple_of(8))
}

/// `[b, heads, n, head]` each, and so is the result. In f32 whatever the precision, since scores in halves
/// would be off by percents after the exponential; as many queries at a time as [`SCORES_MAX`] allows.
fn by_softmax(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64) -> Result<Tensor> {
    let precision = q.dtype();
    let wide = |x: &Tensor| x.to_dtype(DType::F32);
    let (q, k, v) = ((wide(q)? * scale)?, wide(k)?.t()?.contiguous()?, wide(v)?.contiguous()?);
    let (b, heads, n, _) = q.dims4()?;
    let at_once = (SCORES_MAX / (b * heads * n)).clamp(1, n);
    let parts = (0..n).step_by(at_once).map(|from| {
        let scores = q.narrow(2, from, at_once.min(n - from))?.contiguous()?.matmul(&k)?;
        candle_nn::ops::softmax_last_dim(&scores)?.matmul(&v)
    });
    Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 2)?.to_dtype(precision)
}

fn on_cpu(streams: &[Stream<'_>], heads: usize, rope: &Rope) -> Result<Tensor> {
    let (b, _, width) = streams[0].qkv.dims3()?;
    let lent: Vec<_> = streams
        .iter()
        .map(|Stream { qkv, norms }| {
            let (query, key) = norms.scales();
            (qkv.dims()[1], [Lent::new(qkv), Lent::new(query), Lent::new(key)])
        })
        .collect();
    let streams = lent.iter().map(|(count, [qkv, query, key])| {
        Ok(cpu::attention::Stream {
            rows: qkv.rows()?,
            count: *count,
            query: query.contiguous()?,
            key: key.contiguous()?,
        })
    });
    let streams = streams.collect::<Result<Vec<_>>>()?;
    let (cos, sin) = rope.tables();
    let (cos, sin) = (Lent::new(cos), Lent::new(sin));
    let tables = cpu::attention::Tables { cos: cos.contiguous()?, sin: sin.contiguous()? };
    let n = streams.iter().map(|stream| stream.count).sum::<usize>();
    let mixed = cpu::attention::attend(&streams, tables, b, heads, width / (3 * heads));
    Tensor::from_vec(mixed, (b, n, width / 3), &Device::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(shape: &[usize]) -> Tensor {
        Tensor::randn(0f32, 1f32, shape, &Device::Cpu).unwrap()
    }

    /// The fused loops against plain tensor operations, at sizes that fill neither tiles nor panels.
    #[test]
    fn fused_is_plain() {
        for (b, heads, axes, grid) in
            [(2, 3, [2, 4, 4], [3, 5]), (1, 1, [2, 2, 2], [1, 1]), (1, 2, [8, 28, 28], [7, 9])]
        {
            let head: usize = axes.iter().sum();
            let rope = Rope::new(grid, &axes, 10_000.0, &Device::Cpu).unwrap();
            let n = grid[0] * grid[1];
            let norms = [0, 1].map(|_| HeadNorms::new(random(&[head]), random(&[head])));
            let wide = random(&[b, n, 3 * heads * head + 5]);
            let view = wide.narrow(2, 0, 3 * heads * head).unwrap();
            let other = random(&[b, n, 3 * heads * head]);
            let streams = [Stream { qkv: &view, norms: &norms[0] }, Stream { qkv: &other, norms: &norms[1] }];
            let (fused, plain) =
                (attend(&streams, heads, &rope).unwrap(), plain(&streams, heads, &rope).unwrap());
            assert_eq!(fused.dims(), [b, 2 * n, heads * head]);
            let apart =
                (fused - plain).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(apart < 1e-5, "{apart}");
        }
    }
}
