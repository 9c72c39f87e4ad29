//! Slices of tensors: what the fused loops read.

use std::ops::Deref;

use candle_core::{DType, Layout, Result, Storage, Tensor, bail};

use super::linear::{PerEntry, Source};

/// Whether the fused loops can read a tensor: f32 on the CPU.
pub(crate) fn lendable(tensor: &Tensor) -> bool {
    tensor.device().is_cpu() && tensor.dtype() == DType::F32
}

/// A tensor's numbers, held for reading.
pub(crate) struct Lent<'a> {
    /// The lock's guard, whose type the tensor library keeps to itself.
    storage: Box<dyn Deref<Target = Storage> + 'a>,
    layout: &'a Layout,
}

impl<'a> Lent<'a> {
    /// Borrows a tensor.
    pub(crate) fn new(tensor: &'a Tensor) -> Self {
        let (storage, layout) = tensor.storage_and_layout();
        Self { storage: Box::new(storage), layout }
    }

    fn all(&self) -> Result<&[f32]> {
        match &**self.storage {
            Storage::Cpu(storage) => storage.as_slice(),
            _ => bail!("the fused loops run on the CPU only"),
        }
    }

    /// Every number of a tensor without gaps.
    pub(crate) fn contiguous(&self) -> Result<&[f32]> {
        match self.layout.contiguous_offsets() {
            Some((start, end)) => Ok(&self.all()?[start..end]),
            None => bail!("a tensor without gaps is needed here"),
        }
    }

    /// `[b, n, width]`, whose rows have no gaps.
    pub(crate) fn rows(&self) -> Result<Source<'_>> {
        let ([_, _, width], [entry, row, 1]) = (self.layout.dims(), self.layout.stride()) else {
            bail!("three dimensions without gaps in the last are needed here")
        };
        Ok(Source {
            data: self.all()?,
            offset: self.layout.start_offset(),
            row: *row,
            entry: *entry,
            width: *width,
        })
    }
}

/// Pieces side by side, held for reading.
pub(crate) struct LentPieces<'a> {
    rows: Lent<'a>,
    offset: usize,
    width: usize,
}

impl<'a> LentPieces<'a> {
    /// Borrows `[b, columns]`, where the pieces start at column `offset`.
    pub(crate) fn new(rows: &'a Tensor, offset: usize, width: usize) -> Self {
        Self { rows: Lent::new(rows), offset, width }
    }

    /// Piece `n` of every batch entry.
    pub(crate) fn piece(&self, n: usize) -> Result<PerEntry<'_>> {
        let stride = self.rows.layout.dims()[1];
        Ok(PerEntry { data: self.rows.contiguous()?, stride, offset: self.offset + n * self.width })
    }
}
