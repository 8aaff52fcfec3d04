//! Chores of the workspace: `cargo xtask` lists them, `cargo xtask <chore>` does one.
//!
//! The checks are the same functions that the tests call.

use std::process::ExitCode;
use xtask::workspace::Workspace;
use xtask::{deploy, docs, layers, tidy, wrap};

type Chore = fn(&Workspace) -> Vec<String>;

/// Name, what it prints, how.
const CHECKS: &[(&str, &str, Chore)] = &[
    ("layers", "which crate uses what it must not", layers::problems),
    ("tidy", "which file breaks the rules of form", tidy::problems),
    ("docs", "which document says what is not so", docs::problems),
    ("deploy", "what the containers' files name that is not there", deploy::problems),
];
/// What rewrites files.
const REPAIRS: &[(&str, &str, Chore)] = &[("wrap", "comments that were too long", wrap::wrap)];

fn main() -> ExitCode {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let find = |chores: &[(&str, &str, Chore)]| {
        chores.iter().find(|(name, ..)| *name == wanted).map(|(.., chore)| *chore)
    };
    let (check, repair) = (find(CHECKS), find(REPAIRS));
    let Some(chore) = check.or(repair) else { return list() };
    let lines = chore(&Workspace::read());
    lines.iter().for_each(|line| println!("{line}"));
    if check.is_none() || lines.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn list() -> ExitCode {
    println!("cargo xtask <chore>\n");
    CHECKS.iter().chain(REPAIRS).for_each(|(name, what, _)| println!("  {name:8} {what}"));
    ExitCode::from(2)
}
