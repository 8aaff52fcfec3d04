//! Bulk bytes over TCP.
//!
//! Must not know what the bytes are.
