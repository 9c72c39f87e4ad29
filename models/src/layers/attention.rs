//! Attention of every token to every token.

use candle_core::{D, DType, Device, Result, Tensor};

use super::cpu;
use super::cpu::view::{Lent, lendable};
#[cfg(feature = "cuda")]
use super::cuda;
use super::norm::HeadNorms;
use super::rope::Rope;

/// Scores held at a time where attention is not fused: 1 GiB of them, well below the 2^31 at which the
/// indices of CUDA's softmax overflow.
const SCORES_MAX: usize = 1 << 28;

/// Tokens of one stream, `[b, n, width]` each, which may be views into wider rows, and how its heads are normed.
#[derive(Clone)]
pub(crate) struct Stream<'a> {
    /// Queries, unless nobody reads what comes out of them.
    pub(crate) queries: Option<Tensor>,
    /// Keys.
    pub(crate) keys: Tensor,
    /// Values.
    pub(crate) values: Tensor,
    /// Scales of the RMS norms.
    pub(crate) norms: &'a HeadNorms,
}

impl<'a> Stream<'a> {
    /// A stream that asks; `qkv` holds queries, keys and values side by side, `[b, n, 3 * width]` or wider.
    pub(crate) fn asking(qkv: &Tensor, width: usize, norms: &'a HeadNorms) -> Result<Self> {
        Ok(Self {
            queries: Some(qkv.narrow(2, 0, width)?),
            keys: qkv.narrow(2, width, width)?,
            values: qkv.narrow(2, 2 * width, width)?,
            norms,
        })
    }

    /// A stream that others only look at; `kv` holds keys and values side by side, `[b, n, 2 * width]`.
    pub(crate) fn silent(kv: &Tensor, width: usize, norms: &'a HeadNorms) -> Result<Self> {
        Ok(Self { queries: None, keys: kv.narrow(2, 0, width)?, values: kv.narrow(2, width, width)?, norms })
    }
}

/// `softmax(q k^T / sqrt(head)) v` for the queries of all streams, one after the other, over the tokens of all
/// streams: `[b, queries, width]`. Queries and keys are normed by head and turned by position before.
pub(crate) fn attend(streams: &[Stream<'_>], heads: usize, rope: &Rope) -> Result<Tensor> {
    if lendable(&streams[0].keys) {
        return on_cpu(streams, heads, rope);
    }
    #[cfg(feature = "cuda")]
    if cuda::takes(streams, streams[0].keys.dim(2)? / heads) {
        let [q, k, v] = cuda::gathered(streams, heads, rope)?;
        return mix(&q, &k, &v)?.flatten_from(2);
    }
    plain(streams, heads, rope)
}

fn plain(streams: &[Stream<'_>], heads: usize, rope: &Rope) -> Result<Tensor> {
    let (mut q, mut k, mut v) = (Vec::new(), Vec::new(), Vec::new());
    for Stream { queries, keys, values, norms } in streams {
        let split = |x: &Tensor, dtype: DType| {
            let (b, n, width) = x.dims3()?;
            // A change of type closes the gaps of a view; without one, somebody else must.
            x.to_dtype(dtype)?.contiguous()?.reshape((b, n, heads, width / heads))
        };
        // The reference norms and turns in f32.
        let turned = |x: Tensor| rope.rotate(&x)?.to_dtype(values.dtype());
        if let Some(queries) = queries {
            q.push(turned(norms.query(&split(queries, DType::F32)?)?)?);
        }
        k.push(turned(norms.key(&split(keys, DType::F32)?)?)?);
        v.push(split(values, values.dtype())?);
    }
    mix(&Tensor::cat(&q, 1)?, &Tensor::cat(&k, 1)?, &Tensor::cat(&v, 1)?)?.flatten_from(2)
}

/// The product proper, `[b, tokens, heads, head]` all three and the result, without gaps, in the weights' type.
fn mix(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let scale = 1.0 / (q.dim(D::Minus1)? as f64).sqrt();
    #[cfg(feature = "flash-attn")]
    if fused_on_cuda(q) {
        return candle_flash_attn::flash_attn(q, k, v, scale as f32, false);
    }
    by_softmax(q, k, v, scale)
}

/// Whether the fused kernels take these heads: halves on CUDA, up to the widest head that
/// `scripts/build-cuda` compiles them for.
#[cfg(feature = "flash-attn")]
fn fused_on_cuda(q: &Tensor) -> bool {
    const HEAD_MAX: usize = 128;
    let head = q.dims()[3];
    q.device().is_cuda()
        && matches!(q.dtype(), DType::F16 | DType::BF16)
        && head <= HEAD_MAX
        && head.is_multiple_of(8)
}

/// [`mix`] by matrix products. In f32 whatever the precision, since scores in halves would be off by percents
/// after the exponential; as many queries at a time as [`SCORES_MAX`] allows.
fn by_softmax(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64) -> Result<Tensor> {
    let precision = q.dtype();
    let heads_first = |x: &Tensor| x.to_dtype(DType::F32)?.transpose(1, 2)?.contiguous();
    let (q, k, v) = ((heads_first(q)? * scale)?, heads_first(k)?.t()?, heads_first(v)?);
    let (b, heads, queries, _) = q.dims4()?;
    let at_once = (SCORES_MAX / (b * heads * k.dim(D::Minus1)?)).clamp(1, queries);
    let parts = (0..queries).step_by(at_once).map(|from| {
        let scores = q.narrow(2, from, at_once.min(queries - from))?.contiguous()?.matmul(&k)?;
        candle_nn::ops::softmax_last_dim(&scores)?.matmul(&v)
    });
    Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 2)?.to_dtype(precision)?.transpose(1, 2)
}

fn on_cpu(streams: &[Stream<'_>], heads: usize, rope: &Rope) -> Result<Tensor> {
    let (b, _, width) = streams[0].keys.dims3()?;
    let lent: Vec<_> = streams
        .iter()
        .map(|Stream { queries, keys, values, norms }| {
            let (query, key) = norms.scales();
            (keys.dims()[1], queries.as_ref().map(Lent::new), [keys, values, query, key].map(Lent::new))
        })
        .collect();
    let streams = lent.iter().map(|(count, queries, [keys, values, query, key])| {
        Ok(cpu::attention::Stream {
            count: *count,
            queries: queries.as_ref().map(Lent::rows).transpose()?,
            keys: keys.rows()?,
            values: values.rows()?,
            query_norm: query.contiguous()?,
            key_norm: key.contiguous()?,
        })
    });
    let streams = streams.collect::<Result<Vec<_>>>()?;
    let (cos, sin) = rope.tables();
    let (cos, sin) = (Lent::new(cos), Lent::new(sin));
    let tables = cpu::attention::Tables { cos: cos.contiguous()?, sin: sin.contiguous()? };
    let asking = streams.iter().filter(|stream| stream.queries.is_some());
    let queries = asking.map(|stream| stream.count).sum::<usize>();
    let mixed = cpu::attention::attend(&streams, tables, b, heads, width / heads);
    Tensor::from_vec(mixed, (b, queries, width), &Device::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(shape: &[usize]) -> Tensor {
        Tensor::randn(0f32, 1f32, shape, &Device::Cpu).unwrap()
    }

    /// The fused loops against plain tensor operations, at sizes that fill neither tiles nor panels nor blocks of
    /// keys.
    #[test]
    fn fused_is_plain() {
        for (b, heads, axes, grid) in [
            (2, 3, [2, 4, 4], [3, 5]),
            (1, 1, [2, 2, 2], [1, 1]),
            (1, 2, [8, 28, 28], [7, 9]),
            (2, 2, [2, 4, 4], [13, 23]),
        ] {
            let head: usize = axes.iter().sum();
            let rope = Rope::new(grid, &axes, 10_000.0, heads, &Device::Cpu).unwrap();
            let (n, width) = (grid[0] * grid[1], heads * head);
            let norms = [0, 1].map(|_| HeadNorms::new(random(&[head]), random(&[head])));
            let asking = Stream::asking(&random(&[b, n, 3 * width + 5]), width, &norms[0]).unwrap();
            let other = Stream::asking(&random(&[b, n, 3 * width]), width, &norms[1]).unwrap();
            let two_grids = Stream::asking(&random(&[b, 2 * n, 3 * width]), width, &norms[1]).unwrap();
            let silent = Stream::silent(&random(&[b, n, 2 * width]), width, &norms[1]).unwrap();
            for (streams, queries) in [
                (vec![asking.clone(), other.clone()], 2 * n),
                (vec![silent, asking.clone()], n),
                (vec![two_grids], 2 * n),
            ] {
                let (fused, plain) =
                    (attend(&streams, heads, &rope).unwrap(), plain(&streams, heads, &rope).unwrap());
                assert_eq!(fused.dims(), [b, queries, width]);
                let apart =
                    (fused - plain).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
                assert!(apart < 1e-5, "{apart}");
            }
        }
    }
}
