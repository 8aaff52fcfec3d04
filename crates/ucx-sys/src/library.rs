//! libucp, opened once for the life of the process, and its functions by name.

use crate::types::*;
use std::error::Error as _;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fmt;
use std::sync::OnceLock;

/// Names the library to open in place of the system's.
pub const LIBRARY_VARIABLE: &str = "TRIPTYCH_UCX_LIBRARY";

/// The name under which the system's linker finds libucp.
const LIBRARY: &str = "libucp.so.0";

/// Oldest version accepted: the first whose structures we know.
pub const VERSION_MIN: (u32, u32) = (1, 13);

/// Newest version accepted: the last one that was tried.
pub const VERSION_MAX: (u32, u32) = (1, 22);

/// Why UCX is not to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpenError {
    /// The library is not there, or is broken; says what was tried and what the linker said.
    Absent(String),
    /// It is there in a version that we do not know.
    Version(String),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent(words) | Self::Version(words) => f.write_str(words),
        }
    }
}

impl std::error::Error for OpenError {}

/// The functions of UCX, each under its name, and where they come from.
///
/// Calling them is `unsafe`: UCX's documentation says what each needs.
pub struct Library {
    /// What was opened: a path, or the name given to the linker.
    pub path: String,
    /// Major, minor and release number.
    pub version: (u32, u32, u32),
    functions: Functions,
    // The functions point into it, and UCX's own threads may run in it: it is never closed.
    _file: libloading::Library,
}

impl std::ops::Deref for Library {
    type Target = Functions;

    fn deref(&self) -> &Functions {
        &self.functions
    }
}

/// One field and one look-up for each function.
macro_rules! functions {
    ($($name:ident: fn($($arg:ty),*) $(-> $ret:ty)?;)*) => {
        /// The entry points, as in the C headers.
        #[allow(missing_docs)]
        pub struct Functions {
            $(pub $name: unsafe extern "C" fn($($arg),*) $(-> $ret)?,)*
        }

        impl Functions {
            fn find(file: &libloading::Library) -> Result<Self, libloading::Error> {
                // SAFETY: the types are those of UCX's headers, see the test `layout`; the file
                // is kept for as long as the functions.
                unsafe { Ok(Self { $($name: *file.get(stringify!($name))?,)* }) }
            }
        }
    };
}

functions! {
    ucp_get_version: fn(*mut c_uint, *mut c_uint, *mut c_uint);
    ucp_config_read: fn(*const c_char, *const c_char, *mut *mut ucp_config_t) -> ucs_status_t;
    ucp_config_modify: fn(*mut ucp_config_t, *const c_char, *const c_char) -> ucs_status_t;
    ucp_config_release: fn(*mut ucp_config_t);
    ucp_init_version: fn(
        c_uint, c_uint, *const ucp_params_t, *const ucp_config_t, *mut ucp_context_h
    ) -> ucs_status_t;
    ucp_cleanup: fn(ucp_context_h);
    ucp_context_print_info: fn(ucp_context_h, *mut c_void);
    ucp_worker_create: fn(
        ucp_context_h, *const ucp_worker_params_t, *mut ucp_worker_h
    ) -> ucs_status_t;
    ucp_worker_destroy: fn(ucp_worker_h);
    ucp_worker_get_address: fn(
        ucp_worker_h, *mut *mut ucp_address_t, *mut usize
    ) -> ucs_status_t;
    ucp_worker_release_address: fn(ucp_worker_h, *mut ucp_address_t);
    ucp_worker_get_efd: fn(ucp_worker_h, *mut c_int) -> ucs_status_t;
    ucp_worker_arm: fn(ucp_worker_h) -> ucs_status_t;
    ucp_worker_progress: fn(ucp_worker_h) -> c_uint;
    ucp_worker_set_am_recv_handler: fn(
        ucp_worker_h, *const ucp_am_handler_param_t
    ) -> ucs_status_t;
    ucp_ep_create: fn(ucp_worker_h, *const ucp_ep_params_t, *mut ucp_ep_h) -> ucs_status_t;
    ucp_ep_close_nbx: fn(ucp_ep_h, *const ucp_request_param_t) -> ucs_status_ptr_t;
    ucp_am_send_nbx: fn(
        ucp_ep_h, c_uint, *const c_void, usize, *const c_void, usize, *const ucp_request_param_t
    ) -> ucs_status_ptr_t;
    ucp_am_recv_data_nbx: fn(
        ucp_worker_h, *mut c_void, *mut c_void, usize, *const ucp_request_param_t
    ) -> ucs_status_ptr_t;
    ucp_am_data_release: fn(ucp_worker_h, *mut c_void);
    ucp_request_free: fn(*mut c_void);
    ucs_status_string: fn(ucs_status_t) -> *const c_char;
    ucs_debug_disable_signals: fn();
}

impl Library {
    /// UCX's words for a status.
    pub fn words(&self, status: ucs_status_t) -> String {
        // SAFETY: any number is allowed, and the answer is a string that UCX never frees.
        let words = unsafe { CStr::from_ptr((self.ucs_status_string)(status)) };
        words.to_string_lossy().into_owned()
    }
}

/// Opens libucp, once for the whole process: [`LIBRARY_VARIABLE`] if set, else the system's.
///
/// UCX then handles no signals of ours and rewrites no function of the C library, unless the
/// user's `UCX_ERROR_SIGNALS` or `UCX_MEM_EVENTS` ask for it.
pub fn open() -> Result<&'static Library, OpenError> {
    static LIBRARY_OPENED: OnceLock<Result<Library, OpenError>> = OnceLock::new();
    let opened = LIBRARY_OPENED.get_or_init(|| {
        let named = std::env::var(LIBRARY_VARIABLE).ok().filter(|path| !path.is_empty());
        open_at(named.as_deref().unwrap_or(LIBRARY))
    });
    opened.as_ref().map_err(Clone::clone)
}

fn open_at(path: &str) -> Result<Library, OpenError> {
    let absent = |error: libloading::Error| {
        // The linker's own words are in the source of the error.
        let words = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        OpenError::Absent(format!(
            "UCX cannot be opened: {words} (install Debian's libucx0, or name another libucp.so \
             in {LIBRARY_VARIABLE})"
        ))
    };
    // SAFETY: the initialisers of UCX's libraries read the environment and install signal
    // handlers, which are taken back below; they have no other needs.
    let file = unsafe { libloading::Library::new(path) }.map_err(absent)?;
    let functions = Functions::find(&file).map_err(absent)?;
    keep_to_itself(&file, &functions);
    let version = version(&functions);
    let library = Library { path: path.into(), version, functions, _file: file };
    if !(VERSION_MIN..=VERSION_MAX).contains(&(version.0, version.1)) {
        return Err(OpenError::Version(wrong_version(&library)));
    }
    Ok(library)
}

fn version(functions: &Functions) -> (u32, u32, u32) {
    let (mut major, mut minor, mut release) = (0, 0, 0);
    // SAFETY: three numbers of ours to write to.
    unsafe { (functions.ucp_get_version)(&mut major, &mut minor, &mut release) };
    (major, minor, release)
}

fn wrong_version(library: &Library) -> String {
    let (major, minor, release) = library.version;
    let (path, min, max) = (&library.path, VERSION_MIN, VERSION_MAX);
    format!(
        "{path} is UCX {major}.{minor}.{release}, but only {}.{} to {}.{} are known to work; name \
         another libucp.so in {LIBRARY_VARIABLE}",
        min.0, min.1, max.0, max.1
    )
}

/// Takes back UCX's handlers of SIGSEGV and others (the language has its own), and keeps it from
/// patching `munmap` and its like in a process whose other threads are running them.
///
/// Both could be had by environment variables set before the library is opened, but setting those
/// is not safe once a process has threads.
fn keep_to_itself(file: &libloading::Library, functions: &Functions) {
    if std::env::var_os("UCX_ERROR_SIGNALS").is_none() {
        // SAFETY: restores what the library found when it was opened, a moment ago.
        unsafe { (functions.ucs_debug_disable_signals)() };
    }
    if std::env::var_os("UCX_MEM_EVENTS").is_none() {
        // SAFETY: a variable declared in ucm/api/ucm.h, of which we know the beginning.
        let settings = unsafe { file.get::<*mut ucm_global_config_t>("ucm_global_opts") };
        if let Ok(settings) = settings {
            // SAFETY: it is read when hooks are first asked for, which is in `ucp_init` at the
            // earliest, and nobody but this function's caller has the library yet.
            unsafe { (**settings).enable_events = 0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_library_is_an_error_in_words() {
        let Err(OpenError::Absent(words)) = open_at("libnosuchucp.so.0") else {
            panic!("there is no such library")
        };
        assert!(words.contains("libnosuchucp.so.0") && words.contains("libucx0"), "{words}");
    }

    #[test]
    fn a_library_without_the_functions_is_an_error_in_words() {
        assert!(matches!(open_at("libm.so.6"), Err(OpenError::Absent(_))));
    }
}
