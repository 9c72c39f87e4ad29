//! NVIDIA GPUs. With the feature `cuda-loading` CUDA's libraries are loaded when a GPU is asked for, so the
//! program starts without them and can say what is missing.

use candle_core::{CudaDevice, Device};
use cudarc::driver::{DriverError, result, sys};

use super::{DeviceError, runs};

/// What the kernels were built for, `10 * major + minor`; nothing if nvcc chose what it found in the machine.
const BUILT_FOR: Option<&str> = option_env!("CUDA_COMPUTE_CAP");

/// Opens a GPU, after everything that could be wrong with it has been asked about.
pub(super) fn open(ordinal: usize) -> Result<Device, DeviceError> {
    #[cfg(feature = "cuda-loading")]
    libraries()?;
    driver_fits()?;
    let count = count()?;
    if ordinal >= count {
        return Err(DeviceError::NoSuchDevice { ordinal, count });
    }
    let cuda =
        CudaDevice::new_with_stream(ordinal).map_err(|error| DeviceError::Driver(error.to_string()))?;
    kernels_fit(&cuda)?;
    track_nothing(&cuda);
    keep_freed_memory(&cuda)?;
    Ok(Device::Cuda(cuda))
}

/// Bytes that are free, what this process keeps for itself among them, and bytes in all.
pub(super) fn memory(cuda: &CudaDevice) -> Result<(u64, u64), DeviceError> {
    let (free, total) = cuda.cuda_stream().context().mem_get_info().map_err(failed)?;
    let pool = pool(cuda)?;
    let kept = |attribute| {
        let mut bytes = 0u64;
        // SAFETY: these two attributes are 64-bit integers, and one is written.
        #[allow(unsafe_code)]
        let asked = unsafe { sys::cuMemPoolGetAttribute(pool, attribute, (&raw mut bytes).cast()) };
        asked.result().map(|()| bytes).map_err(failed)
    };
    let reserved = kept(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?;
    let used = kept(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?;
    Ok((free as u64 + reserved.saturating_sub(used), total as u64))
}

/// What allocations in the order of a stream are taken from.
fn pool(cuda: &CudaDevice) -> Result<sys::CUmemoryPool, DeviceError> {
    let mut pool = std::ptr::null_mut();
    // SAFETY: the call writes one handle, whose address it is given; the pool is as old as the device.
    #[allow(unsafe_code)]
    let asked =
        unsafe { sys::cuDeviceGetDefaultMemPool(&raw mut pool, cuda.cuda_stream().context().cu_device()) };
    asked.result().map(|()| pool).map_err(failed)
}

/// Freed memory stays with the process. By default it goes back to the system whenever the host waits for the GPU,
/// once a step, and is mapped again for the next.
fn keep_freed_memory(cuda: &CudaDevice) -> Result<(), DeviceError> {
    let mut threshold = u64::MAX;
    // SAFETY: this attribute is a 64-bit integer, which is read.
    #[allow(unsafe_code)]
    let set = unsafe {
        sys::cuMemPoolSetAttribute(
            pool(cuda)?,
            sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
            (&raw mut threshold).cast(),
        )
    };
    set.result().map_err(failed)
}

#[cfg(feature = "cuda-loading")]
fn libraries() -> Result<(), DeviceError> {
    // SAFETY: these load a shared library by name to see whether that works, which runs its initialisers. They
    // are NVIDIA's, and are about to be used anyway.
    #[allow(unsafe_code)]
    let (driver, cublas, curand) = unsafe {
        (
            sys::is_culib_present(),
            cudarc::cublas::sys::is_culib_present(),
            cudarc::curand::sys::is_culib_present(),
        )
    };
    let missing = |library| DeviceError::LibraryMissing { library, needed: sys::CUDA_VERSION };
    match (driver, cublas, curand) {
        (false, ..) => Err(DeviceError::NoDriver),
        (_, false, _) => Err(missing("libcublas")),
        (.., false) => Err(missing("libcurand")),
        _ => Ok(()),
    }
}

fn driver_fits() -> Result<(), DeviceError> {
    let mut found = 0;
    // SAFETY: the call writes one integer, whose address it is given.
    #[allow(unsafe_code)]
    let known = unsafe { sys::cuDriverGetVersion(&raw mut found) };
    // A driver that cannot say how old it is will say below what ails it.
    let found = found.unsigned_abs();
    if known == sys::CUresult::CUDA_SUCCESS && found < sys::CUDA_VERSION {
        return Err(DeviceError::DriverTooOld { found, needed: sys::CUDA_VERSION });
    }
    Ok(())
}

fn count() -> Result<usize, DeviceError> {
    let count = result::init().and_then(|()| result::device::get_count()).map_err(failed)?;
    match count.unsigned_abs() as usize {
        0 => Err(DeviceError::NoDevice),
        count => Ok(count),
    }
}

fn kernels_fit(cuda: &CudaDevice) -> Result<(), DeviceError> {
    let Some(built) = BUILT_FOR.and_then(|built| built.parse::<u32>().ok()) else { return Ok(()) };
    let (major, minor) = cuda.cuda_stream().context().compute_capability().map_err(failed)?;
    let found = 10 * major.unsigned_abs() + minor.unsigned_abs();
    if runs(built, found) { Ok(()) } else { Err(DeviceError::ComputeCapability { found, built }) }
}

/// All threads of the process share the device's one stream, which orders what they do; events that would order
/// several streams cost time at every kernel and order nothing here.
fn track_nothing(cuda: &CudaDevice) {
    // SAFETY: what must not happen without events is the use of one allocation from two streams. The device has
    // one stream, made with it, and nothing here makes another.
    #[allow(unsafe_code)]
    unsafe {
        cuda.cuda_stream().context().disable_event_tracking();
    }
}

fn failed(error: DriverError) -> DeviceError {
    match error.0 {
        sys::CUresult::CUDA_ERROR_NO_DEVICE => DeviceError::NoDevice,
        _ => DeviceError::Driver(format!("{error:?}")),
    }
}
