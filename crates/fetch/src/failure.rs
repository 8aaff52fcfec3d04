//! What a fetch can fail with, in words for a client: nothing of them says what was found inside.

use std::time::Duration;
use types::{Error, ErrorKind};

/// The address is not one of HTTP.
pub(crate) fn no_address() -> Error {
    Error::invalid("the address cannot be fetched; expected http:// or https:// and a host")
}

/// The address carries a user's name or a password.
pub(crate) fn credentials() -> Error {
    Error::invalid("the address has a user name or a password in it, which are not sent")
}

/// The policy forbids the host or all of its addresses: one answer, so that nobody learns which
/// names and machines there are on our side.
pub(crate) fn forbidden() -> Error {
    Error::new(
        ErrorKind::Forbidden,
        "media are not fetched from this address; --allowed-media-domains and \
         --allowed-media-networks say from where they are",
    )
}

/// The origin is at fault; `why` begins with "its origin".
pub(crate) fn origin(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::MediaOrigin, why)
}

/// The origin could not be resolved or connected to.
pub(crate) fn unreachable() -> Error {
    origin("its origin cannot be reached")
}

/// The origin's answer ended before its end, or is not HTTP.
pub(crate) fn broken() -> Error {
    origin("its origin broke off or did not speak HTTP")
}

/// What should have happened within `most` did not.
pub(crate) fn too_slow(what: &str, most: Duration) -> Error {
    let message = format!("its origin {what} within {} s", most.as_secs_f32());
    Error::new(ErrorKind::Timeout, message)
}

/// More bytes than are accepted.
pub(crate) fn too_large(n_bytes_max: usize) -> Error {
    let message = format!("the medium is larger than the limit of {n_bytes_max} bytes");
    Error::new(ErrorKind::TooLarge, message)
}
