//! The driver's errors in our words.

use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;
use types::{Error, ErrorKind, Result};

/// The result of a driver call, with what was tried.
pub(crate) fn checked<T>(outcome: std::result::Result<T, DriverError>, tried: &str) -> Result<T> {
    outcome.map_err(|error| {
        let said = error.error_string().ok().and_then(|text| text.to_str().ok());
        let said = said.unwrap_or("an error without a name");
        let kind = match error.0 {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => ErrorKind::Unavailable,
            _ => ErrorKind::Internal,
        };
        Error::new(kind, format!("the GPU could not {tried}: {said}"))
    })
}
