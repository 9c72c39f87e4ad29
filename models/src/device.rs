//! Which device a model runs on.

use candle_core::Device;

use crate::ModelError;

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
    fn names() {
        assert!(choose("cpu").unwrap().is_cpu());
        for unknown in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "CPU"] {
            let error = choose(unknown).unwrap_err().to_string();
            assert!(error.contains("use cpu, cuda or cuda:N"), "{error}");
        }
    }
}
