//! Tests of the whole crate against the goldens and against what Jinja and Python do.

mod chat;
mod common;
mod defaults;
mod hostile;
mod jinja;
mod stream;
mod templates;
mod tokens;
