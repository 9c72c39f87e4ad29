//! `x W^T + b` over the last dimension, with what comes before and after it.

use candle_core::{DType, Device, Result, Tensor};

use super::cpu;
use super::cpu::view::{Lent, lendable};
#[cfg(feature = "cuda")]
use super::cuda;
use super::modulation::Pieces;
use super::norm;
use super::product::matmul;
use crate::weights::Tensors;

/// A linear layer.
pub(crate) enum Linear {
    /// Weight `[out, in]` as checkpoints store it, for devices with kernels of their own and for halves.
    Plain {
        /// `[out, in]`.
        weight: Tensor,
        /// `[out]`.
        bias: Option<Tensor>,
    },
    /// Weight in panels, for the fused loops.
    Packed(cpu::linear::Packed),
}

/// What happens to the result.
pub(crate) enum After<'a> {
    /// Nothing.
    Nothing,
    /// GELU (tanh form) on the columns from this one on.
    Gelu(usize),
    /// `residual + gate * y`; the gate is that piece.
    Gated(&'a Tensor, Pieces<'a>, usize),
}

impl Linear {
    /// The layer whose tensors are `name.weight` and, if there is one, `name.bias`.
    pub(crate) fn load(tensors: &Tensors<'_>, name: &str) -> Result<Self> {
        let bias = format!("{name}.bias");
        let bias = if tensors.has(&bias) { Some(tensors.get(&bias)?) } else { None };
        Self::new(&tensors.get(&format!("{name}.weight"))?, bias)
    }

    /// A layer of given numbers, `[out, in]` and `[out]`.
    pub(crate) fn new(weight: &Tensor, bias: Option<Tensor>) -> Result<Self> {
        if !lendable(weight) {
            return Ok(Self::Plain { weight: weight.contiguous()?, bias });
        }
        let (out, into) = weight.dims2()?;
        let numbers = |tensor: &Tensor| tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
        let bias = bias.map_or_else(|| Ok(Vec::new()), |bias| numbers(&bias))?;
        Ok(Self::Packed(cpu::linear::Packed::new(&numbers(weight)?, &bias, into, out)))
    }

    /// Columns of the result.
    pub(crate) fn out(&self) -> usize {
        match self {
            Self::Packed(packed) => packed.out(),
            Self::Plain { weight, .. } => weight.dims()[0],
        }
    }

    /// `[b, n, in]` to `[b, n, out]`, in the weights' type whatever `x` has.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.fused(&[x], None, &After::Nothing)
    }

    /// The same over several tensors side by side, after the layer norm that `norm` modulates (with
    /// that piece and the next) and before `after`.
    pub(crate) fn fused(
        &self,
        x: &[&Tensor],
        norm: Option<(Pieces<'_>, usize)>,
        after: &After<'_>,
    ) -> Result<Tensor> {
        match self {
            Self::Packed(packed) => on_cpu(packed, x, norm, after),
            #[cfg(feature = "cuda")]
            Self::Plain { weight, bias } if weight.device().is_cuda() => {
                on_cuda(weight, bias.as_ref(), x, norm, after)
            }
            Self::Plain { weight, bias } => {
                let x = Tensor::cat(x, 2)?;
                let x = norm.map_or(Ok(x.clone()), |(pieces, n)| norm::modulated(&x, &pieces, n))?;
                plain(weight, bias.as_ref(), &x, after)
            }
        }
    }
}

fn plain(weight: &Tensor, bias: Option<&Tensor>, x: &Tensor, after: &After<'_>) -> Result<Tensor> {
    let (b, n, into) = x.dims3()?;
    let x = x.reshape((b * n, into))?.to_dtype(weight.dtype())?;
    let y = matmul(&x, &weight.t()?)?.reshape((b, n, weight.dim(0)?))?;
    let y = bias.map_or(Ok(y.clone()), |bias| y.broadcast_add(bias))?;
    match after {
        After::Nothing => Ok(y),
        After::Gelu(0) => gelu(&y),
        After::Gelu(from) => {
            let active = gelu(&y.narrow(2, *from, y.dim(2)? - from)?.contiguous()?)?;
            Tensor::cat(&[&y.narrow(2, 0, *from)?, &active], 2)
        }
        After::Gated(residual, pieces, gate) => pieces.gated(*gate, residual, &y),
    }
}

#[cfg(feature = "cuda")]
fn on_cuda(
    weight: &Tensor,
    bias: Option<&Tensor>,
    x: &[&Tensor],
    norm: Option<(Pieces<'_>, usize)>,
    after: &After<'_>,
) -> Result<Tensor> {
    let typed = x.iter().map(|x| x.to_dtype(weight.dtype())).collect::<Result<Vec<_>>>()?;
    let x = match (norm, &typed[..]) {
        (Some((pieces, n)), [one]) => cuda::modulated(one, &pieces, n)?,
        (norm, several) => {
            let x = cuda::side_by_side(&several.iter().collect::<Vec<_>>())?;
            norm.map_or(Ok(x.clone()), |(pieces, n)| cuda::modulated(&x, &pieces, n))?
        }
    };
    let (b, n, into) = x.dims3()?;
    let y = matmul(&x.reshape((b * n, into))?, &weight.t()?)?.reshape((b, n, weight.dim(0)?))?;
    cuda::finish(y, bias, after)
}

/// In f32 whatever the precision: the device's own kernel for halves rounds inside the polynomial and where
/// `1 + tanh` cancels.
fn gelu(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(DType::F32)?.gelu()?.to_dtype(x.dtype())
}

fn on_cpu(
    packed: &cpu::linear::Packed,
    x: &[&Tensor],
    norm: Option<(Pieces<'_>, usize)>,
    after: &After<'_>,
) -> Result<Tensor> {
    let (b, n, _) = x[0].dims3()?;
    let lent: Vec<_> = x.iter().map(|x| Lent::new(x)).collect();
    let sources = lent.iter().map(Lent::rows).collect::<Result<Vec<_>>>()?;
    let shifts = norm.map(|(pieces, n)| (pieces.lend(), n));
    let before = match &shifts {
        None => cpu::linear::Before::Nothing,
        Some((pieces, n)) => {
            cpu::linear::Before::Norm { shift: pieces.piece(*n)?, scale: pieces.piece(n + 1)? }
        }
    };
    let gated = match after {
        After::Gated(residual, pieces, gate) => Some((Lent::new(residual), pieces.lend(), *gate)),
        After::Nothing | After::Gelu(_) => None,
    };
    let after = match (&gated, after) {
        (Some((residual, pieces, gate)), _) => {
            cpu::linear::After::Gated { residual: residual.rows()?, gate: pieces.piece(*gate)? }
        }
        (None, After::Gelu(from)) => cpu::linear::After::Gelu(*from),
        (None, _) => cpu::linear::After::Nothing,
    };
    Tensor::from_vec(packed.run(b, n, &sources, before, after), (b, n, packed.out()), &Device::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::modulation::Modulations;

    fn random(shape: &[usize]) -> Tensor {
        Tensor::randn(0f32, 1f32, shape, &Device::Cpu).unwrap()
    }

    fn assert_close(one: &Tensor, two: &Tensor) {
        assert_eq!(one.dims(), two.dims());
        let highest = |x: &Tensor| x.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        let apart = highest(&(one - two).unwrap());
        assert!(apart < 2e-6 * (1.0 + highest(two)), "{apart}");
    }

    /// The fused loops against plain tensor operations, at sizes that fill neither tiles nor chunks.
    #[test]
    fn fused_is_plain() {
        for (into, out, b, n) in [(5, 7, 1, 1), (24, 50, 3, 67), (48, 96, 2, 9)] {
            let (weight, bias) = (random(&[out, into]), random(&[out]));
            let packed = Linear::new(&weight, Some(bias.clone())).unwrap();
            let plainly = Linear::Plain { weight, bias: Some(bias) };
            let mut modulations = Modulations::new(into);
            let place = modulations.push(Linear::new(&random(&[3 * into, into]), None).unwrap());
            let mut gates = Modulations::new(out);
            let gate = gates.push(Linear::new(&random(&[out, into]), None).unwrap());
            let active = random(&[b, into]);
            let (table, gate_table) = (modulations.table(&active).unwrap(), gates.table(&active).unwrap());
            let (pieces, gate) = (modulations.pieces(&table, place), gates.pieces(&gate_table, gate));
            // Views with strides of their own, side by side.
            let wide = random(&[b, n + 3, into + 4]);
            let left = wide.narrow(1, 2, n).unwrap().narrow(2, 1, 2).unwrap();
            let right = wide.narrow(1, 3, n).unwrap().narrow(2, 3, into - 2).unwrap();
            let residual = random(&[b, n + 2, out]).narrow(1, 1, n).unwrap();
            for norm in [None, Some((pieces, 1))] {
                for after in
                    [After::Nothing, After::Gelu(0), After::Gelu(3), After::Gated(&residual, gate, 0)]
                {
                    assert_close(
                        &packed.fused(&[&left, &right], norm, &after).unwrap(),
                        &plainly.fused(&[&left, &right], norm, &after).unwrap(),
                    );
                }
            }
        }
    }
}
