//! The transport over UCX obeys the laws of transport, outlives its peers, and is fast.

mod child;
mod common;
mod laws;
mod losses;
mod throughput;
