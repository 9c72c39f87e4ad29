//! Which device a model runs on, and in what numbers it computes there.

use std::fmt;

use candle_core::{DType, Device};

use crate::ModelError;

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

/// A device as [`choose`] spells it.
pub fn display(device: &Device) -> String {
    match device.location() {
        candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        _ => "cpu".to_owned(),
    }
}

/// The device of that name: `cpu`, `cuda` (the first one) or `cuda:N`.
pub fn choose(name: &str) -> Result<Device, ModelError> {
    let refused = |reason: String| ModelError::Device { name: name.to_owned(), reason };
    if name == "cpu" {
        return Ok(Device::Cpu);
    }
    let ordinal = match name.strip_prefix("cuda") {
        Some("") => Some(0),
        Some(rest) => rest.strip_prefix(':').and_then(|digits| digits.parse().ok()),
        None => None,
    };
    let ordinal = ordinal.ok_or_else(|| refused("use cpu, cuda or cuda:N".to_owned()))?;
    Device::new_cuda(ordinal).map_err(|error| refused(format!("{error}; use cpu, or a build for CUDA")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_computes_in_f32() {
        assert_eq!(Precision::of(&Device::Cpu), Precision::F32);
        assert_eq!([Precision::F16, Precision::Bf16].map(|p| p.to_string()), ["f16", "bf16"]);
        assert_eq!(display(&Device::Cpu), "cpu");
    }

    #[test]
    fn names() {
        assert!(choose("cpu").unwrap().is_cpu());
        for unknown in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "CPU"] {
            let error = choose(unknown).unwrap_err().to_string();
            assert!(error.contains("use cpu, cuda or cuda:N"), "{error}");
        }
    }
}
