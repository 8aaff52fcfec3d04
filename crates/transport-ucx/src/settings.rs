//! UCX's settings that we need to be other than its defaults, where the user has not set them.

use std::ffi::CString;
use std::ptr;
use types::{Error, ErrorKind, Result};
use ucx_sys::{Library, UCS_OK, ucp_config_t};

/// Names without the prefix `UCX_`, and values.
///
/// - Without error handling over shared memory there is no shared memory between peers whose loss
///   must be noticed, and a sixteenth of the speed.
/// - Nobody writes into another's memory: whoever receives fetches (`get_zcopy`), or copies what
///   was streamed to it. A peer that could write might still do so when its endpoint is closed and
///   the memory has been given back.
/// - Since nobody is written to, nobody needs a peer's access to memory taken back when an endpoint
///   fails: bytes that a reader fetched too late are given to nobody, because the owner does not
///   confirm them. UCX cannot know that. Unless CMA (`process_vm_readv`) claims that it could take
///   access back, UCX leaves it out where errors are handled, and copies through slots of 8 KiB, of
///   which each handful needs both processes to be scheduled: on a busy machine that was seen to
///   move a twentieth of the bytes.
/// - For the same reason a stream over TCP carries messages, which name a receive under way, and
///   not writes to addresses.
/// - Queues in shared memory are long enough to be full rarely: one that a peer left full when it
///   died keeps UCX from closing the way to it, see [`crate::limits::CLOSE_MAX`].
const SETTINGS: [(&str, &str); 5] = [
    ("MM_ERROR_HANDLING", "y"),
    ("RNDV_SCHEME", "get_zcopy"),
    ("CMA_MEMORY_INVALIDATE", "y"),
    ("TCP_PUT_ENABLE", "n"),
    ("MM_FIFO_SIZE", "256"),
];

/// First version in which a transport's settings are changed under the names by which the
/// environment has them; before it, without the transport's own prefix.
const PREFIXED_SINCE: (u32, u32) = (1, 17);

/// The transports' own prefixes.
const PREFIXES: [&str; 2] = ["TCP_", "CMA_"];

/// UCX's settings from its files and environment, with ours where the user said nothing.
pub(crate) struct Settings {
    library: &'static Library,
    config: *mut ucp_config_t,
}

impl Settings {
    /// Errors: UCX cannot make sense of its environment (`InvalidInput`).
    pub(crate) fn read(library: &'static Library) -> Result<Self> {
        let mut config = ptr::null_mut();
        // SAFETY: no prefix and no file are allowed, and the place for the answer is ours.
        let status = unsafe { (library.ucp_config_read)(ptr::null(), ptr::null(), &mut config) };
        if status != UCS_OK {
            let why = library.words(status);
            return Err(Error::invalid(format!("UCX cannot read its settings: {why}")));
        }
        let settings = Self { library, config };
        for (name, value) in SETTINGS {
            if std::env::var_os(format!("UCX_{name}")).is_none() {
                settings.set(settings.spelled(name), value)?;
            }
        }
        Ok(settings)
    }

    fn spelled<'a>(&self, name: &'a str) -> &'a str {
        let (major, minor, _) = self.library.version;
        if (major, minor) >= PREFIXED_SINCE {
            return name;
        }
        PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name)
    }

    fn set(&self, name: &str, value: &str) -> Result<()> {
        let words = [name, value].map(|word| CString::new(word).expect("a word has no zero byte"));
        // SAFETY: the settings were read above, and both strings live until the call returns.
        let status = unsafe {
            (self.library.ucp_config_modify)(self.config, words[0].as_ptr(), words[1].as_ptr())
        };
        if status == UCS_OK {
            return Ok(());
        }
        let why = self.library.words(status);
        let message = format!("UCX does not take the setting UCX_{name}={value}: {why}");
        Err(Error::new(ErrorKind::Unavailable, message))
    }

    /// For `ucp_init_version`, valid as long as this value.
    pub(crate) fn as_ptr(&self) -> *const ucp_config_t {
        self.config
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        // SAFETY: read by `ucp_config_read`, released once, and UCX keeps a copy of what it needs.
        unsafe { (self.library.ucp_config_release)(self.config) };
    }
}
