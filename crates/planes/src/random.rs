//! The one source of randomness for ids and secrets: the operating system's.

use types::{InstanceId, RequestId, Secret};

/// A 128-bit number that nobody can guess.
///
/// # Panics
/// When the operating system has no randomness to give, in which case no secret can be trusted.
fn unguessable() -> u128 {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    u128::from_be_bytes(bytes)
}

/// A fresh secret for a transfer handle.
pub fn secret() -> Secret {
    Secret(unguessable())
}

/// A fresh id for one life of a worker.
pub fn instance_id() -> InstanceId {
    InstanceId(unguessable())
}

/// A fresh id for a request.
pub fn request_id() -> RequestId {
    RequestId(unguessable())
}

/// Thirty-two bytes that no conversation has seen before.
///
/// # Panics
/// When the operating system has no randomness to give, in which case no proof is one.
pub fn nonce() -> [u8; 32] {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}
