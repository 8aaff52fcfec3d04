//! What the tests of several crates share; nothing else may use it.

use crate::cuda::CudaOptions;
use crate::device::Device;

/// The GPU to test on; `None`, with a line that says so, where there is none.
/// `TRIPTYCH_REQUIRE_CUDA=1` makes that a panic.
pub fn gpu(options: CudaOptions) -> Option<Device> {
    match Device::cuda(options) {
        Ok(device) => Some(device),
        Err(why) => {
            let is_required = std::env::var_os("TRIPTYCH_REQUIRE_CUDA").is_some_and(|v| v == "1");
            assert!(!is_required, "no CUDA device: {why}");
            eprintln!("skipped: no CUDA device ({why})");
            None
        }
    }
}
