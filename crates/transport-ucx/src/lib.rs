//! Bulk bytes over UCX.
//!
//! Must not know what the bytes are.
