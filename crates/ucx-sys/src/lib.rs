//! The part of UCX's C interface that we use, opened at run time.
//!
//! Must not know what it is used for.
