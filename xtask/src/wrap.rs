//! Wraps comments that are longer than a line may be; rustfmt leaves them as they are.

use crate::workspace::{TextFile, Workspace, root};

/// Longest line of Rust, in characters.
pub const LINE_LEN_MAX: usize = 100;
/// What begins a line that is not the continuation of a sentence.
const OPENINGS: &[&str] = &["-", "*", "|", "#", "```", "1."];

/// Rewrites the files that need it and answers with their paths.
///
/// # Panics
/// When a file cannot be written.
pub fn wrap(workspace: &Workspace) -> Vec<String> {
    let rust = workspace.files.iter().filter(|file| file.extension() == "rs");
    let changed = rust.filter_map(|TextFile { path, text }| {
        let wrapped = wrapped(text);
        (wrapped != *text).then(|| {
            std::fs::write(root().join(path), wrapped).expect("tracked files can be written");
            path.clone()
        })
    });
    changed.collect()
}

/// The text with its long comments wrapped: what is too much moves to the next line of the comment.
pub fn wrapped(text: &str) -> String {
    let mut lines: Vec<String> = text.split('\n').map(String::from).collect();
    let mut idx = 0;
    while idx < lines.len() {
        if let Some((head, marker, rest)) = split(&lines[idx]) {
            lines[idx] = head;
            match lines.get(idx + 1).and_then(|next| continuation(next, &marker)) {
                Some(next) => lines[idx + 1] = format!("{marker}{rest} {next}"),
                None => lines.insert(idx + 1, format!("{marker}{rest}")),
            }
        }
        idx += 1;
    }
    lines.join("\n")
}

/// A comment that is too long, as the part that fits, the marker (`    /// `) and the rest.
fn split(line: &str) -> Option<(String, String, String)> {
    if line.chars().count() <= LINE_LEN_MAX {
        return None;
    }
    let marker = marker(line)?;
    // The space that is replaced by the line's end may be one character beyond the limit.
    let limit = line.char_indices().nth(LINE_LEN_MAX + 1).map_or(line.len(), |(at, _)| at);
    let space = line[..limit].rfind(' ').filter(|&at| at > marker.len())?;
    Some((line[..space].into(), marker.into(), line[space + 1..].into()))
}

fn marker(line: &str) -> Option<&str> {
    let indent = line.len() - line.trim_start().len();
    let kinds = ["//! ", "/// ", "// "];
    let kind = kinds.iter().find(|kind| line[indent..].starts_with(**kind))?;
    Some(&line[..indent + kind.len()])
}

/// What `next` says after the marker, if it goes on with the same paragraph.
fn continuation<'a>(next: &'a str, marker: &str) -> Option<&'a str> {
    let said = next.strip_prefix(marker)?;
    let is_new = said.trim().is_empty() || OPENINGS.iter().any(|opening| said.starts_with(opening));
    (!is_new).then_some(said)
}
