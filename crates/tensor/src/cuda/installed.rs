//! Which of NVIDIA's libraries this machine has, without asking anything of a GPU.

use cudarc::{cublaslt, driver};

/// The newest CUDA that the driver serves, as major and minor; none without a driver.
pub fn driver_version() -> Option<(i32, i32)> {
    // SAFETY: only tries to open the driver's library.
    if !unsafe { driver::sys::is_culib_present() } {
        return None;
    }
    let mut version = 0;
    // SAFETY: the library is there; it writes one number.
    let result = unsafe { driver::sys::cuDriverGetVersion(&raw mut version) };
    let is_known = result == driver::sys::CUresult::CUDA_SUCCESS;
    is_known.then_some((version / 1000, version % 1000 / 10))
}

/// Whether the library for products of matrices can be opened.
pub fn is_blas_installed() -> bool {
    // SAFETY: only tries to open the library.
    unsafe { cublaslt::sys::is_culib_present() }
}
