//! Processes put together: configuration → planes → workers → router → frontend.
//!
//! The only crate that names concrete planes. A binary is a page: it parses its flags and calls
//! what is here. Must not know how anything works, only what goes with what.

mod model;
mod observe;
mod serve;
mod sizes;
mod workers;

pub use serve::{Served, serve};
