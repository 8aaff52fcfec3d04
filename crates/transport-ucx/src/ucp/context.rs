//! UCX opened with our settings: what it finds here, and workers are made of it.

use crate::settings::Settings;
use std::ptr;
use types::{Error, ErrorKind, Result};
use ucx_sys::*;

/// UCX's context, shared by everything of one transport.
pub(crate) struct Context {
    pub(super) library: &'static Library,
    pub(super) context: ucp_context_h,
}

impl Context {
    /// Opens UCX. Errors: it is not there, or finds nothing to work with (`Unavailable`).
    pub(crate) fn open() -> Result<Self> {
        let unavailable = |error: OpenError| {
            let message = format!("{error}; or choose the transport tcp");
            Error::new(ErrorKind::Unavailable, message)
        };
        let library = ucx_sys::open().map_err(unavailable)?;
        let settings = Settings::read(library)?;
        let mut params = ucp_params_t::zeroed();
        params.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_NAME;
        params.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
        params.name = c"triptych".as_ptr();
        let (major, minor) = VERSION_MIN;
        let mut context = ptr::null_mut();
        // SAFETY: the parameters say which of their fields are set, and live until it returns.
        let status = unsafe {
            (library.ucp_init_version)(major, minor, &params, settings.as_ptr(), &mut context)
        };
        check(library, status, "start")?;
        Ok(Self { library, context })
    }

    pub(crate) fn library(&self) -> &'static Library {
        self.library
    }

    /// Transports and devices found, as `tcp/eth0`.
    pub(crate) fn resources(&self) -> Vec<String> {
        let text = crate::system::written_to_file(|file| {
            // SAFETY: the context is open, and so is the file.
            unsafe { (self.library.ucp_context_print_info)(self.context, file) };
        });
        let lines = text.lines().filter(|line| line.contains(" resource "));
        lines.filter_map(|line| line.split_whitespace().last()).map(Into::into).collect()
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: opened in `open`, closed once, after the worker that is made of it.
        unsafe { (self.library.ucp_cleanup)(self.context) };
    }
}

/// Errors: UCX says that it could not (`Unavailable`).
pub(super) fn check(library: &Library, status: ucs_status_t, what: &str) -> Result<()> {
    if status == UCS_OK {
        return Ok(());
    }
    let message = format!("UCX cannot {what}: {}", library.words(status));
    Err(Error::new(ErrorKind::Unavailable, message))
}
