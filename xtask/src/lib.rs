//! What the tree promises about itself, as functions that list where a promise is broken.
//!
//! Each check takes a [`workspace::Workspace`] and answers with one line per problem. Knows nothing
//! of what the crates do.

pub mod deploy;
pub mod docs;
pub mod layers;
pub mod names;
pub mod tidy;
pub mod workspace;
pub mod wrap;
