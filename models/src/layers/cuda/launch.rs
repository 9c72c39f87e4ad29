//! How the kernels are started, and how tensors are shown to them.

use candle_core::cuda::{CudaDevice, CudaStorageSlice};
use candle_core::{DType, Device, Error, Result, Shape, Storage, StorageRef, Tensor, bail};
use cudarc::driver::{DevicePtr, LaunchConfig, PushKernelArg};

use crate::layers::modulation::Pieces;

#[expect(unreachable_pub, reason = "the build script's library writes it so")]
mod built {
    include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
}

/// What a kernel reads or writes at a time where it can.
const PACK_BYTES: usize = 16;

/// Threads of a block where each has a pack of its own.
const THREADS: usize = 256;

/// A tensor of that shape to be written in full, of the type and on the device of another.
pub(super) fn blank(shape: impl Into<Shape>, like: &Tensor) -> Result<Tensor> {
    // SAFETY: numbers of any bits are numbers, and whoever calls this writes all of them before they are read.
    #[allow(unsafe_code)]
    unsafe {
        Tensor::empty(shape, like.dtype(), like.device())
    }
}

/// A tensor's memory, held until the kernel that uses it is in the stream.
pub(super) struct Lent<'a> {
    _storage: StorageRef<'a>,
    device: &'a CudaDevice,
    dtype: DType,
    /// Of the first number.
    address: u64,
    /// Numbers from one batch entry to the next.
    pub(super) entry: usize,
    /// Numbers from one row to the next.
    row: usize,
    width: usize,
}

impl<'a> Lent<'a> {
    /// `[.., width]` whose rows have no gaps, and which has at most two dimensions more.
    pub(super) fn new(tensor: &'a Tensor) -> Result<Self> {
        let layout = tensor.layout();
        let (entry, row, width) = match (layout.stride(), layout.dims()) {
            ([entry, row, 1], [_, _, width]) => (*entry, *row, *width),
            ([row, 1], [_, width]) => (0, *row, *width),
            _ => bail!("rows without gaps are needed here, in two or three dimensions"),
        };
        Self::of(tensor, entry, row, width)
    }

    /// `[width]`.
    pub(super) fn row(tensor: &'a Tensor) -> Result<Self> {
        if tensor.rank() != 1 || !tensor.is_contiguous() {
            bail!("one row without gaps is needed here");
        }
        Self::of(tensor, 0, 0, tensor.dims()[0])
    }

    /// Piece `n` of every batch entry.
    pub(super) fn piece(pieces: &Pieces<'a>, n: usize) -> Result<Self> {
        let (table, column, width) = pieces.columns(n);
        let all = Self::new(table)?;
        let address = all.address + (column * table.dtype().size_in_bytes()) as u64;
        Ok(Self { address, entry: all.row, row: 0, width, ..all })
    }

    fn of(tensor: &'a Tensor, entry: usize, row: usize, width: usize) -> Result<Self> {
        let Device::Cuda(device) = tensor.device() else { bail!("the kernels run on a GPU only") };
        let (storage, layout) = tensor.storage_and_layout();
        let Storage::Cuda(memory) = &*storage else { bail!("the kernels run on a GPU only") };
        // The stream orders whatever uses the memory, so the guards of the addresses have nothing to add.
        let stream = device.cuda_stream();
        let start = match &memory.slice {
            CudaStorageSlice::F32(slice) => slice.device_ptr(&stream).0,
            CudaStorageSlice::F16(slice) => slice.device_ptr(&stream).0,
            CudaStorageSlice::BF16(slice) => slice.device_ptr(&stream).0,
            _ => bail!("the kernels take f32, f16 and bf16"),
        };
        let dtype = tensor.dtype();
        let address = start + (layout.start_offset() * dtype.size_in_bytes()) as u64;
        Ok(Self { _storage: storage, device, dtype, address, entry, row, width })
    }

    /// Whether every row begins where a pack can be read, and is made of packs.
    fn fits(&self, pack: usize) -> bool {
        let bytes = [self.entry, self.row].map(|numbers| numbers * self.dtype.size_in_bytes());
        self.width.is_multiple_of(pack)
            && self.address.is_multiple_of(PACK_BYTES as u64)
            && bytes.iter().all(|bytes| bytes.is_multiple_of(PACK_BYTES))
    }
}

enum Argument {
    Address(u64),
    Size(usize),
    Count(u32),
    Number(f32),
}

/// A kernel and what it is told, in its order.
pub(super) struct Kernel<'a> {
    name: &'static str,
    device: &'a CudaDevice,
    dtype: DType,
    /// Numbers read at a time.
    pack: usize,
    arguments: Vec<Argument>,
    too_many: bool,
}

impl<'a> Kernel<'a> {
    /// The kernel of that name for the type of the first operand, in packs if all operands are made of such.
    pub(super) fn new(name: &'static str, operands: &[&Lent<'a>]) -> Self {
        let Lent { device, dtype, .. } = *operands[0];
        let pack = PACK_BYTES / dtype.size_in_bytes();
        let pack = if operands.iter().all(|operand| operand.fits(pack)) { pack } else { 1 };
        Self { name, device, dtype, pack, arguments: Vec::with_capacity(16), too_many: false }
    }

    fn with(mut self, argument: Argument) -> Self {
        self.arguments.push(argument);
        self
    }

    pub(super) fn address(self, lent: &Lent<'a>) -> Self {
        self.with(Argument::Address(lent.address))
    }

    /// An address, or none.
    pub(super) fn optional(self, lent: Option<&Lent<'a>>) -> Self {
        self.with(Argument::Address(lent.map_or(0, |lent| lent.address)))
    }

    /// An address and the strides of entries and rows.
    pub(super) fn rows(self, lent: &Lent<'a>) -> Self {
        self.address(lent).size(lent.entry).size(lent.row)
    }

    pub(super) fn size(self, size: usize) -> Self {
        self.with(Argument::Size(size))
    }

    pub(super) fn count(mut self, count: usize) -> Self {
        let narrow = u32::try_from(count);
        self.too_many |= narrow.is_err();
        self.with(Argument::Count(narrow.unwrap_or_default()))
    }

    pub(super) fn number(self, number: f32) -> Self {
        self.with(Argument::Number(number))
    }

    /// Starts a thread for every pack of so many numbers.
    pub(super) fn launch_packs(self, numbers: usize) -> Result<()> {
        let blocks = (numbers / self.pack).div_ceil(THREADS);
        self.launch(blocks, THREADS, 0)
    }

    /// Starts so many blocks, each with so many bytes of shared memory.
    pub(super) fn launch(self, blocks: usize, threads: usize, shared: usize) -> Result<()> {
        let width = if self.pack == 1 { "one" } else { "pack" };
        let name = format!("{}_{}_{width}", self.name, self.dtype.as_str());
        self.start(&name, blocks, threads, shared)
    }

    /// Starts so many blocks of a kernel that reads pairs.
    pub(super) fn launch_pairs(self, blocks: usize, threads: usize) -> Result<()> {
        let name = format!("{}_{}", self.name, self.dtype.as_str());
        self.start(&name, blocks, threads, 0)
    }

    fn start(&self, name: &str, blocks: usize, threads: usize, shared: usize) -> Result<()> {
        // The kernels number their threads in 32 bits.
        if self.too_many || u32::try_from(blocks * threads).is_err() {
            bail!("{name}: a batch is too large for one kernel");
        }
        let function = self.device.get_or_load_custom_func(name, "kraftr", built::KERNELS)?;
        let mut launch = function.builder();
        for argument in &self.arguments {
            match argument {
                Argument::Address(value) => launch.arg(value),
                Argument::Size(value) => launch.arg(value),
                Argument::Count(value) => launch.arg(value),
                Argument::Number(value) => launch.arg(value),
            };
        }
        let config = LaunchConfig {
            grid_dim: (blocks as u32, 1, 1),
            block_dim: (threads as u32, 1, 1),
            shared_mem_bytes: shared as u32,
        };
        // SAFETY: the functions beside this module pass what the kernel of that name takes, in its order and types;
        // addresses are of tensors that hold the rows that the counts speak of, which `Lent` keeps until this call is
        // over, and the one that is written is new or a product that nobody else has seen. Memory is freed in the
        // order of the stream, so what is dropped after this call is still there when the kernel runs.
        #[allow(unsafe_code)]
        unsafe { launch.launch(config) }.map_err(Error::wrap)?;
        Ok(())
    }
}
