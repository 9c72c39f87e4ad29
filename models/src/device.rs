//! Which device a model runs on, and in what numbers it computes there.
//!
//! A process has one device. Several GPUs are several workers: each loads its releases, runs its own engine and
//! may die without the others.

#[cfg(feature = "cuda")]
mod cuda;

use std::fmt;
use std::str::FromStr;

use candle_core::{DType, Device};

use crate::ModelError;

/// Why a device cannot be had, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// No device is spelled like that.
    #[error("use cpu, cuda (the first GPU) or cuda:N")]
    Unknown,
    /// One worker for all GPUs was asked for.
    #[error("a worker has one GPU; start one for each, with cuda:0, cuda:1 and so on")]
    Several,
    /// The program has no CUDA in it.
    #[error("this program was built without CUDA; use the one that scripts/build-cuda makes, or cpu")]
    NotBuilt,
    /// The machine has no driver.
    #[error("no NVIDIA driver: libcuda.so.1 is not found; install the driver, or use cpu")]
    NoDriver,
    /// The driver is older than the CUDA that the program was built with.
    #[error(
        "the NVIDIA driver knows CUDA {}, this program needs {}; update the driver",
        Release(*.found),
        Release(*.needed)
    )]
    DriverTooOld {
        /// What the driver knows: `1000 * major + 10 * minor`.
        found: u32,
        /// What the program needs, likewise.
        needed: u32,
    },
    /// A library of the CUDA runtime is not installed.
    #[error(
        "the CUDA {} library {library} is not found; install the CUDA runtime, or name its folder in LD_LIBRARY_PATH",
        .needed / 1000
    )]
    LibraryMissing {
        /// Its file name.
        library: &'static str,
        /// The CUDA release, `1000 * major + 10 * minor`.
        needed: u32,
    },
    /// The driver sees no GPU at all.
    #[error("the NVIDIA driver sees no GPU; look at nvidia-smi and CUDA_VISIBLE_DEVICES")]
    NoDevice,
    /// The machine has fewer GPUs.
    #[error("there is no GPU {ordinal}; the driver sees {count}, counted from 0")]
    NoSuchDevice {
        /// What was asked for.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },
    /// The GPU cannot run the kernels that the program was built with.
    #[error(
        "the GPU has compute capability {}, this program was built for {}; build it with CUDA_COMPUTE_CAP={found}",
        Capability(*.found),
        Capability(*.built)
    )]
    ComputeCapability {
        /// The GPU's, `10 * major + minor`.
        found: u32,
        /// The program's, likewise.
        built: u32,
    },
    /// The GPU has less memory free than the release needs.
    #[error("{} MiB are needed, {} MiB of {} MiB are free; stop what else runs there, or use a larger GPU",
        .needed >> 20, .free >> 20, .total >> 20)]
    Memory {
        /// Bytes that the release needs.
        needed: u64,
        /// Bytes that are free.
        free: u64,
        /// Bytes that the GPU has.
        total: u64,
    },
    /// The driver failed in another way.
    #[error("the NVIDIA driver failed: {0}")]
    Driver(String),
}

/// A release of CUDA as people write it.
struct Release(u32);

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 / 1000, self.0 % 1000 / 10)
    }
}

/// A compute capability as people write it.
struct Capability(u32);

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 / 10, self.0 % 10)
    }
}

/// The numbers that a network computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    /// 32 bits: what the references are compared in.
    F32,
    /// 16 bits with 10 of fraction; overflows at 65,504.
    F16,
    /// 16 bits with the range of f32.
    Bf16,
}

impl Precision {
    /// What suits a device: f32 on a CPU; on a GPU bf16, or f16 where it does not compute in bf16.
    pub fn of(device: &Device) -> Self {
        match device {
            Device::Cpu => Self::F32,
            gpu if gpu.supports_bf16() => Self::Bf16,
            _ => Self::F16,
        }
    }

    pub(crate) const fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.dtype().as_str())
    }
}

/// Not the name of a precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("use f32, f16 or bf16")]
pub struct UnknownPrecision;

impl FromStr for Precision {
    type Err = UnknownPrecision;

    fn from_str(name: &str) -> Result<Self, UnknownPrecision> {
        [Self::F32, Self::F16, Self::Bf16]
            .into_iter()
            .find(|precision| precision.to_string() == name)
            .ok_or(UnknownPrecision)
    }
}

/// The device of that name: `cpu`, `cuda` (the first GPU) or `cuda:N`. Ask once in a process: tensors of one
/// answer do not mix with those of another.
pub fn choose(name: &str) -> Result<Device, ModelError> {
    let opened = match parse(name) {
        Ok(Named::Cpu) => Ok(Device::Cpu),
        Ok(Named::Cuda(ordinal)) => open_cuda(ordinal),
        Err(reason) => Err(reason),
    };
    opened.map_err(|reason| ModelError::Device { name: name.to_owned(), reason })
}

/// What a device can hold, where that is known: bytes that are free and bytes in all.
pub fn memory(device: &Device) -> Result<Option<(u64, u64)>, ModelError> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(cuda) = device {
        let refused = |reason| ModelError::Device { name: display(device), reason };
        return cuda::memory(cuda).map(Some).map_err(refused);
    }
    let _ = device;
    Ok(None)
}

/// Refuses a device that has less than `needed` bytes free; where that is not known, it is enough.
pub fn require_memory(device: &Device, needed: u64) -> Result<(), ModelError> {
    match memory(device)? {
        Some((free, total)) if free < needed => Err(ModelError::Device {
            name: display(device),
            reason: DeviceError::Memory { needed, free, total },
        }),
        _ => Ok(()),
    }
}

/// A device as [`choose`] spells it.
pub fn display(device: &Device) -> String {
    match device.location() {
        candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        _ => "cpu".to_owned(),
    }
}

/// Whether kernels built for one compute capability run on another. From 9.0 on they are built with what only
/// that GPU has. Older ones are translated when they are loaded and run on newer GPUs too, but for those of
/// flash attention, which are machine code of one generation.
#[cfg(any(feature = "cuda", test))]
const fn runs(built: u32, found: u32) -> bool {
    if built >= 90 || cfg!(feature = "flash-attn") {
        found >= built && found / 10 == built / 10 && (built < 90 || found == built)
    } else {
        found >= built
    }
}

enum Named {
    Cpu,
    Cuda(usize),
}

fn parse(name: &str) -> Result<Named, DeviceError> {
    match name.split_once(':') {
        None if name == "cpu" => Ok(Named::Cpu),
        None if name == "cuda" => Ok(Named::Cuda(0)),
        Some(("cuda", "all")) => Err(DeviceError::Several),
        Some(("cuda", ordinals)) if ordinals.contains(',') => Err(DeviceError::Several),
        Some(("cuda", ordinal)) => ordinal.parse().map(Named::Cuda).map_err(|_| DeviceError::Unknown),
        _ => Err(DeviceError::Unknown),
    }
}

#[cfg(feature = "cuda")]
fn open_cuda(ordinal: usize) -> Result<Device, DeviceError> {
    cuda::open(ordinal)
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(_: usize) -> Result<Device, DeviceError> {
    Err(DeviceError::NotBuilt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(choose("cpu").unwrap().is_cpu());
        for unknown in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "CPU", "cpu:0"] {
            let error = choose(unknown).unwrap_err().to_string();
            assert!(error.contains("use cpu, cuda (the first GPU) or cuda:N"), "{error}");
        }
        for several in ["cuda:all", "cuda:0,1"] {
            let error = choose(several).unwrap_err().to_string();
            assert!(error.contains("start one for each"), "{error}");
        }
    }

    /// In a build for CUDA this is true of a machine without a GPU, too.
    #[test]
    fn a_gpu_that_is_not_there_is_an_error_that_says_what_to_do() {
        let error = choose("cuda:63").unwrap_err();
        let ModelError::Device { reason, .. } = &error else { panic!("{error}") };
        if cfg!(feature = "cuda") {
            assert!(!matches!(reason, DeviceError::NotBuilt | DeviceError::Unknown), "{error}");
        } else {
            assert_eq!(*reason, DeviceError::NotBuilt);
        }
    }

    #[test]
    fn releases_and_capabilities_read_as_people_write_them() {
        let old = DeviceError::DriverTooOld { found: 12_080, needed: 13_000 }.to_string();
        assert!(old.contains("knows CUDA 12.8, this program needs 13.0"), "{old}");
        let small = DeviceError::ComputeCapability { found: 89, built: 90 }.to_string();
        assert!(
            small.contains("8.9") && small.contains("9.0") && small.contains("CUDA_COMPUTE_CAP=89"),
            "{small}"
        );
        let full = DeviceError::Memory { needed: 6 << 30, free: 1 << 30, total: 8 << 30 }.to_string();
        assert!(full.starts_with("6144 MiB are needed, 1024 MiB of 8192 MiB"), "{full}");
    }

    #[test]
    fn kernels_of_hopper_run_on_hopper_only() {
        assert!(runs(90, 90) && !runs(90, 89) && !runs(90, 100) && !runs(90, 91));
        assert!(runs(80, 86) && !runs(86, 80));
    }

    #[test]
    fn precisions_have_names() {
        for name in ["f32", "f16", "bf16"] {
            assert_eq!(name.parse::<Precision>().unwrap().to_string(), name);
        }
        assert!("F32".parse::<Precision>().is_err());
        assert_eq!(Precision::of(&Device::Cpu), Precision::F32);
    }

    #[test]
    fn a_cpu_has_no_memory_limit_of_its_own() {
        require_memory(&Device::Cpu, u64::MAX).unwrap();
        assert_eq!(display(&Device::Cpu), "cpu");
    }
}
