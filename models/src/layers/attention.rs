//! Attention of every token to every token.

use candle_core::{D, Device, Result, Tensor};

use super::cpu;
use super::cpu::view::Lent;
use super::norm::HeadNorms;
use super::rope::Rope;

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
    if matches!(streams[0].qkv.device(), Device::Cpu) {
        on_cpu(streams, heads, rope)
    } else {
        plain(streams, heads, rope)
    }
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
    let scores = (q.contiguous()? * scale)?.matmul(&k.t()?.contiguous()?)?;
    let mixed = candle_nn::ops::softmax_last_dim(&scores)?.matmul(&v.contiguous()?)?;
    mixed.transpose(1, 2)?.flatten_from(2)
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
