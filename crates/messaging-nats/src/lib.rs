//! Requests and streams of answers over NATS, in its plain form: no persistence, nothing stored.
//!
//! A call is one message to the address that is called; everything after it goes between the
//! inboxes of the two processes. Frames of many streams share a message when they come at the same
//! time, and a frame that comes alone goes alone, at once. NATS may drop messages, so frames are
//! numbered and heartbeats say which streams live: what is lost ends a stream, never hangs it.
//!
//! Must not know what the messages mean.

mod assembly;
mod codec;
mod config;
mod connect;
mod exchange;
mod frame;
mod lane;
mod link;
mod plane;
mod replies;
mod run;
mod shared;
mod stats;

pub use config::{NatsAuth, NatsConfig, NatsTls};
pub use connect::{check, connect};
pub use plane::NatsMessaging;
pub use stats::Stats;
