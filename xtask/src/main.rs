//! Chores of the workspace: `cargo xtask` lists them, `cargo xtask <chore>` does one.
//!
//! The checks are the same functions that the tests call.

use std::process::ExitCode;
use xtask::workspace::Workspace;
use xtask::{docs, layers, tidy};

type Check = fn(&Workspace) -> Vec<String>;

/// Name, what it does, how.
const CHORES: &[(&str, &str, Check)] = &[
    ("layers", "which crate uses what it must not", layers::problems),
    ("tidy", "which file breaks the rules of form", tidy::problems),
    ("docs", "which document says what is not so", docs::problems),
];

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let chosen: Vec<_> =
        CHORES.iter().filter(|(name, ..)| wanted.iter().any(|w| w == name)).collect();
    if wanted.is_empty() || chosen.len() != wanted.len() {
        list();
        return ExitCode::from(2);
    }
    let workspace = Workspace::read();
    let problems: Vec<String> = chosen.iter().flat_map(|(.., check)| check(&workspace)).collect();
    problems.iter().for_each(|problem| println!("{problem}"));
    if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn list() {
    println!("cargo xtask <chore>...\n");
    CHORES.iter().for_each(|(name, what, _)| println!("  {name:8} {what}"));
}
