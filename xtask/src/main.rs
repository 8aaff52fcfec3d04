//! Chores of the workspace, in Rust.
fn main() {}
