//! The part of UCX's C interface that we use (`ucp`, and a little of `ucs` and `ucm` below it):
//! its types as they lie in memory, and the library itself, opened at run time.
//!
//! UCX passes structures with a mask of the fields that are set and adds fields only at their
//! ends, so one set of declarations serves every version from 1.13 to 1.22; the test `layout`
//! holds them to the C headers of the version installed. Must not know what it is used for.

mod library;
mod types;

pub use library::{LIBRARY_VARIABLE, Library, OpenError, VERSION_MAX, VERSION_MIN, open};
pub use types::*;
