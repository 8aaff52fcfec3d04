//! Requests and streams of answers over NATS.
//!
//! Must not know what the messages mean.
