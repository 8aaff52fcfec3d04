//! The engine from outside: real threads, a model, and requests in every state.
//!
//! Laws of answers run on a toy model, whose every bit depends on everything it should see, and on
//! a checkpoint of a real architecture.

mod cuda;
mod identity;
mod laws;
mod lifecycle;
mod mock;
mod rig;
mod toy;
mod transfer;
