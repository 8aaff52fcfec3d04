//! Processes put together: configuration → planes → workers → router → frontend.
//!
//! The only crate that names concrete planes. A binary is a page: it parses its flags and calls
//! what is here. Must not know how anything works, only what goes with what.

pub mod check;
mod connect;
mod device;
mod fronting;
mod gemm_choices;
mod gpu_memory;
mod gpu_moves;
mod load_progress;
mod model;
mod observe;
pub mod process;
mod serve;
mod sizes;
mod system;
mod transport_host;
mod workers;
mod working;
mod worst_case;

pub use connect::connect;
pub use fronting::{Fronting, Listening};
pub use serve::{Served, serve};
pub use system::System;
pub use working::work;
