//! UCX's settings that we need to be other than its defaults: those that keep memory safe always,
//! those of speed where the user has not set them.

use std::ffi::CString;
use std::ptr;
use types::{Error, ErrorKind, Result};
use ucx_sys::{Library, UCS_OK, ucp_config_t};

/// A setting.
struct Setting {
    /// Without the prefix `UCX_`.
    name: &'static str,
    value: &'static str,
    /// Whether the user may choose another value, by the environment.
    is_free: bool,
}

const fn free(name: &'static str, value: &'static str) -> Setting {
    Setting { name, value, is_free: true }
}

const fn fixed(name: &'static str, value: &'static str) -> Setting {
    Setting { name, value, is_free: false }
}

/// What we set.
///
/// - Without error handling over shared memory there is no shared memory between peers whose loss
///   must be noticed, and a sixteenth of the speed.
/// - Nobody writes into another's memory: whoever receives fetches (`get_zcopy`), or copies what
///   was streamed to it. A peer that could write might still do so when its endpoint is closed and
///   the memory has been given back. So nobody may choose otherwise.
/// - Since nobody is written to, nobody needs a peer's access to memory taken back when an endpoint
///   fails: bytes that a reader fetched too late are given to nobody, because the owner does not
///   confirm them. UCX cannot know that. Unless CMA (`process_vm_readv`) claims that it could take
///   access back, UCX leaves it out where errors are handled, and copies through slots of 8 KiB, of
///   which each handful needs both processes to be scheduled: on a busy machine that was seen to
///   move a twentieth of the bytes.
/// - For the same reason a stream over TCP carries messages, which name a receive under way, and
///   not writes to addresses: nor may anybody choose that.
/// - Queues in shared memory are long enough to be full rarely: one that a peer left full when it
///   died keeps UCX from closing the way to it, see [`crate::limits::CLOSE_MAX`].
const SETTINGS: [Setting; 5] = [
    free("MM_ERROR_HANDLING", "y"),
    fixed("RNDV_SCHEME", "get_zcopy"),
    free("CMA_MEMORY_INVALIDATE", "y"),
    fixed("TCP_PUT_ENABLE", "n"),
    free("MM_FIFO_SIZE", "256"),
];

/// The environment's value of a setting.
fn of_environment(name: &str) -> Option<String> {
    std::env::var_os(format!("UCX_{name}")).map(|value| value.to_string_lossy().into_owned())
}

/// What of the environment is passed over because memory would not be safe with it, as
/// `UCX_NAME=value`.
pub(crate) fn ignored() -> Vec<String> {
    ignored_of(of_environment)
}

fn ignored_of(chosen: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let fixed = SETTINGS.iter().filter(|setting| !setting.is_free);
    let other = fixed.filter_map(|Setting { name, value, .. }| {
        let theirs = chosen(name).filter(|theirs| theirs != value)?;
        Some(format!("UCX_{name}={theirs}"))
    });
    other.collect()
}

/// What to set, beside what the environment has.
fn to_be_set(chosen: impl Fn(&str) -> Option<String>) -> Vec<(&'static str, &'static str)> {
    let ours = SETTINGS.iter().filter(|setting| !setting.is_free || chosen(setting.name).is_none());
    ours.map(|setting| (setting.name, setting.value)).collect()
}

/// First version in which a transport's settings are changed under the names by which the
/// environment has them; before it, without the transport's own prefix.
const PREFIXED_SINCE: (u32, u32) = (1, 17);

/// The transports' own prefixes.
const PREFIXES: [&str; 2] = ["TCP_", "CMA_"];

/// UCX's settings from its files and environment, with ours.
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
        for (name, value) in to_be_set(of_environment) {
            settings.set(settings.spelled(name), value)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_memory_safe_is_not_the_users_and_speed_is() {
        let chosen = |name: &str| match name {
            "RNDV_SCHEME" => Some("put_zcopy".to_owned()),
            "TCP_PUT_ENABLE" => Some("y".to_owned()),
            "MM_FIFO_SIZE" => Some("512".to_owned()),
            _ => None,
        };
        let set = to_be_set(chosen);
        assert!(set.contains(&("RNDV_SCHEME", "get_zcopy")), "{set:?}");
        assert!(set.contains(&("TCP_PUT_ENABLE", "n")), "{set:?}");
        assert!(set.contains(&("MM_ERROR_HANDLING", "y")), "{set:?}");
        assert!(set.iter().all(|(name, _)| *name != "MM_FIFO_SIZE"), "{set:?}");
        assert_eq!(ignored_of(chosen), ["UCX_RNDV_SCHEME=put_zcopy", "UCX_TCP_PUT_ENABLE=y"]);
    }

    #[test]
    fn nothing_is_ignored_that_says_what_we_say() {
        assert!(ignored_of(|_| None).is_empty());
        let ours = |name: &str| (name == "RNDV_SCHEME").then(|| "get_zcopy".to_owned());
        assert!(ignored_of(ours).is_empty());
    }
}
