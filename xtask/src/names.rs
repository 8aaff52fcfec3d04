//! What documents call by name in the code: items as `crate::module::item`, tests of invariants,
//! and the spans of a request.

use crate::workspace::{Package, TextFile, Workspace};
use std::collections::BTreeSet;

/// How a sentence that states an invariant begins, and how it names its test.
const INVARIANT: &str = "Invariant: ";
const TESTED_BY: &str = "(test `";
/// What comes before the name of an item where it is defined.
const DEFINITIONS: &[&str] = &["fn ", "struct ", "enum ", "trait ", "const ", "type ", "mod "];
/// Where the spans of a request are told, and which crates open them.
const SPANS_TOLD: &str = "docs/life-of-a-request.md";
const SPANS_OPENED: &[&str] = &["crates/router/src/", "crates/worker/src/"];
const SPANS_FENCE: &str = "```spans";
/// Of every level (`info_span`, `debug_span`).
const SPAN_MACRO: &str = "_span!(";

/// Items that a document names and the code has not.
pub fn unknown_items(workspace: &Workspace, file: &TextFile) -> Vec<String> {
    let named = file.numbered_lines().flat_map(|(number, line)| {
        line.split('`').skip(1).step_by(2).map(move |name| (number, name))
    });
    let unknown = named.filter(|(_, name)| {
        let package = named_package(workspace, name);
        package.is_some_and(|package| !has_item(workspace, package, name))
    });
    unknown
        .map(|(number, name)| format!("{}:{number}: the code has no `{name}`", file.path))
        .collect()
}

/// Invariants that a document states without the name of a test. (That the test exists, as any item
/// it names, is [`unknown_items`]' business.)
pub fn untested_invariants(file: &TextFile) -> Vec<String> {
    let untested = |line: &str| line.contains(INVARIANT) && !line.contains(TESTED_BY);
    let stated = file.numbered_lines().filter(|(_, line)| untested(line));
    stated
        .map(|(number, _)| format!("{}:{number}: an invariant without a test", file.path))
        .collect()
}

/// The spans told against the spans opened.
pub fn wrong_spans(workspace: &Workspace) -> Vec<String> {
    let (told, opened) = (told_spans(workspace), opened_spans(workspace));
    let untold =
        opened.difference(&told).map(|span| format!("{SPANS_TOLD}: no word of span `{span}`"));
    let unopened =
        told.difference(&opened).map(|span| format!("{SPANS_TOLD}: nobody opens span `{span}`"));
    untold.chain(unopened).collect()
}

/// The package that `crate::item` begins with, if that is what `name` is.
fn named_package<'a>(workspace: &'a Workspace, name: &str) -> Option<&'a Package> {
    let is_plain = name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == ':');
    let (first, _) = name.split_once("::").filter(|_| is_plain)?;
    workspace.packages.iter().find(|package| package.name.replace('-', "_") == first)
}

/// Whether the last segment of `name` is defined in its crate, in the module it names, if any.
fn has_item(workspace: &Workspace, package: &Package, name: &str) -> bool {
    let folder = format!("{}/", package.folder);
    let segments: Vec<&str> = name.split("::").skip(1).collect();
    let Some((item, owners)) = segments.split_last() else { return false };
    let module = owners.iter().rev().find(|owner| owner.starts_with(char::is_lowercase));
    let is_there = |path: &str| module.is_none_or(|module| is_of_module(path, module));
    let mut files = workspace.files.iter().filter(|file| file.path.starts_with(&folder));
    files.any(|file| file.extension() == "rs" && is_there(&file.path) && defines(&file.text, item))
}

fn is_of_module(path: &str, module: &str) -> bool {
    path.ends_with(&format!("/{module}.rs")) || path.contains(&format!("/{module}/"))
}

fn defines(text: &str, item: &str) -> bool {
    let ends_there = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    DEFINITIONS.iter().any(|definition| {
        let whole = format!("{definition}{item}");
        text.match_indices(&whole).any(|(start, _)| ends_there(&text[start + whole.len()..]))
    })
}

fn told_spans(workspace: &Workspace) -> BTreeSet<&str> {
    let blocks = workspace.text(SPANS_TOLD).split(SPANS_FENCE).skip(1);
    let lists = blocks.filter_map(|rest| rest.split_once('\n')?.1.split("```").next());
    lists.flat_map(str::split_whitespace).collect()
}

fn opened_spans(workspace: &Workspace) -> BTreeSet<&str> {
    let opens = |file: &&TextFile| SPANS_OPENED.iter().any(|folder| file.path.starts_with(folder));
    let files = workspace.files.iter().filter(opens);
    files.flat_map(|file| file.text.split(SPAN_MACRO).skip(1).filter_map(first_string)).collect()
}

fn first_string(arguments: &str) -> Option<&str> {
    arguments.trim_start().strip_prefix('"')?.split('"').next()
}
