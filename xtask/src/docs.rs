//! Documents say what is so: every path and item exists, every invariant names its test, every
//! dependency has its reason, and the tables are the ones that are enforced.

use crate::names;
use crate::workspace::{TextFile, Workspace};
use std::collections::BTreeSet;

/// Documents at the root whose paths are checked besides those under `docs/`.
const ROOT_DOCUMENTS: &[&str] = &["README.md", "CONTRIBUTING.md"];
/// A name in backticks with a `/` and one of these endings is always meant as a path.
const FILE_ENDINGS: &[&str] = &[".rs", ".md", ".sh", ".py", ".toml", ".json", ".proto", ".cu"];
const DECISIONS: &str = "docs/decisions.md";
const ARCHITECTURE: &str = "docs/architecture.md";

/// Where documents say what is not so.
pub fn problems(workspace: &Workspace) -> Vec<String> {
    let documents = || workspace.files.iter().filter(|file| is_document(file));
    let mut problems: Vec<String> =
        documents().flat_map(|file| dead_paths(workspace, file)).collect();
    problems.extend(documents().flat_map(names::untested_invariants));
    problems.extend(documents().flat_map(|file| names::unknown_items(workspace, file)));
    problems.extend(names::wrong_spans(workspace));
    problems.extend(dependencies_without_reason(workspace));
    problems.extend(wrong_layers(workspace));
    problems
}

fn is_document(file: &TextFile) -> bool {
    let in_docs = file.path.starts_with("docs/") && file.extension() == "md";
    in_docs || ROOT_DOCUMENTS.contains(&file.path.as_str())
}

fn dead_paths(workspace: &Workspace, file: &TextFile) -> Vec<String> {
    let mut problems = Vec::new();
    for (number, line) in file.numbered_lines() {
        let named = backticked(line).chain(linked(line));
        for path in named.filter(|name| is_meant_as_path(workspace, name)) {
            if !workspace.has_path(path) {
                problems.push(format!("{}:{number}: there is no `{path}`", file.path));
            }
        }
    }
    problems
}

/// The words between backticks of a line.
fn backticked(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2).flat_map(str::split_whitespace)
}

/// The targets of a line's Markdown links that lie in this tree.
fn linked(line: &str) -> impl Iterator<Item = &str> {
    let targets = line.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
    targets.filter(|target| !target.is_empty() && !target.contains("://"))
}

fn is_meant_as_path(workspace: &Workspace, name: &str) -> bool {
    let is_plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c));
    if !is_plain || name.starts_with('/') || !name.contains('/') {
        return false;
    }
    let first = name.trim_start_matches("./").split('/').next().unwrap_or("");
    // What cargo makes is not tracked.
    if first == "target" {
        return false;
    }
    let has_ending = FILE_ENDINGS.iter().any(|ending| name.ends_with(ending));
    name.starts_with("./") || has_ending || workspace.has_path(first)
}

/// The cells of every row of a document's tables.
fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().filter(|line| line.starts_with("| ")).map(cells)
}

fn cells(row: &str) -> Vec<&str> {
    row.trim_matches('|').split('|').map(str::trim).collect()
}

fn unquoted(cell: &str) -> Option<&str> {
    cell.strip_prefix('`')?.strip_suffix('`')
}

fn dependencies_without_reason(workspace: &Workspace) -> Vec<String> {
    let ours: BTreeSet<&str> = workspace.packages.iter().map(|p| p.name.as_str()).collect();
    let declared = workspace.packages.iter().flat_map(|p| &p.declared).map(String::as_str);
    let used: BTreeSet<&str> = declared.filter(|name| !ours.contains(name)).collect();
    let explained: BTreeSet<&str> =
        rows(workspace.text(DECISIONS)).filter_map(|row| unquoted(row[0])).collect();
    let unexplained =
        used.difference(&explained).map(|name| format!("{DECISIONS}: no row for `{name}`"));
    let unused =
        explained.difference(&used).map(|name| format!("{DECISIONS}: nothing uses `{name}`"));
    unexplained.chain(unused).collect()
}

/// The rows `layer | crate | … | must not reach` against `[workspace.metadata.layers]`.
fn wrong_layers(workspace: &Workspace) -> Vec<String> {
    let told: BTreeSet<(String, String, String)> = rows(workspace.text(ARCHITECTURE))
        .filter(|row| row.len() == 4 && row[0].parse::<u64>().is_ok())
        .map(|row| (row[0].into(), unquoted(row[1]).unwrap_or(row[1]).into(), row[3].into()))
        .collect();
    let enforced: BTreeSet<(String, String, String)> = workspace
        .layers
        .iter()
        .map(|(name, layer)| {
            (layer.number.to_string(), name.clone(), listed(&layer.must_not_reach))
        })
        .collect();
    let row = |(number, name, banned): &(String, String, String)| {
        format!("{number} | `{name}` | … | {banned}")
    };
    let missing =
        enforced.difference(&told).map(|it| format!("{ARCHITECTURE}: no row {}", row(it)));
    let wrong = told.difference(&enforced).map(|it| format!("{ARCHITECTURE}: not so: {}", row(it)));
    missing.chain(wrong).collect()
}

fn listed(names: &[String]) -> String {
    if names.is_empty() {
        return "–".into();
    }
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
