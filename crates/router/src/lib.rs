//! Who is there, who takes a request, and the way of a request through the stages (the spine).
//!
//! Read `spine` for the way of a request; the rest is what it stands on. [`Backend`] is what an
//! API sees of all this. Must not know HTTP, engines or any concrete plane.

mod attempt;
pub mod backend;
mod calls;
mod cards;
mod lend;
mod losses;
mod members;
mod passage;
mod places;
mod progress;
mod reserve;
mod route;
mod router;
#[cfg(test)]
mod scripted;
mod spine;

pub use backend::{Backend, ServedModel};
pub use route::{Candidate, Route, Share, missing_role, route};
pub use router::{Router, RouterConfig};
