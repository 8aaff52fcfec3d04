//! Who is there, who takes a request, and the way of a request: [`Backend`] is what an API sees of it.
//!
//! Must not know HTTP, engines or any concrete plane.

pub mod backend;

pub use backend::{Backend, ServedModel};
