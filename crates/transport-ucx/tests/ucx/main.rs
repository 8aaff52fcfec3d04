//! The transport over UCX obeys the laws of transport, outlives its peers, and is fast.

mod common;
mod laws;
