//! Matrix products in every precision.

use candle_core::{DType, Result, Tensor};

/// `a b` over the last two dimensions. The CPU has no bf16 product: there the numbers are widened, multiplied
/// and rounded once, which is what a GPU does with them.
pub(crate) fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.dtype() == DType::BF16 && a.device().is_cpu() {
        return a.to_dtype(DType::F32)?.matmul(&b.to_dtype(DType::F32)?)?.to_dtype(DType::BF16);
    }
    a.matmul(b)
}
