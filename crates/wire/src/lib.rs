//! The messages between roles: our own types ([`message`]) and their form on the wire.
//!
//! Everybody speaks in the types of [`message`]; the generated prost types stay inside this crate,
//! and every message is checked once, where it is decoded. Must not know who sends what to whom.

mod decode;
mod encode;
pub mod message;

/// The generated types, one for one from `proto/triptych/v1`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/triptych.v1.rs"));
}

/// Version of the protocol; a receiver refuses any other.
pub const VERSION: u32 = 1;

pub use decode::{decode_card, decode_reply, decode_request};
pub use encode::{encode_card, encode_reply, encode_request};
