//! The transport over UCX obeys the laws of transport and outlives its peers.

mod alone;
mod child;
mod common;
mod laws;
mod losses;
mod strangers;
