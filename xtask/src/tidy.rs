//! Rules of form that no compiler checks: headers, lengths, leftovers, places.

use crate::workspace::{Package, TextFile, Workspace};
use crate::wrap::LINE_LEN_MAX;

/// Longest file of code, in lines.
const N_LINES_MAX: usize = 800;
/// Files that are tables and may be longer; each with the reason in its header.
const TABLES: &[&str] = &[];
/// What code is written in.
const CODE: &[&str] = &["rs", "cu", "cuh", "py", "sh"];
/// Kinds of text whose white space is ours to keep.
const PROSE: &[&str] = &["md", "toml", "yaml", "yml", "proto"];
/// Notes to oneself and stubs. Written in pieces, so that this file may be checked too.
const LEFTOVERS: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("todo", "!"),
    concat!("unimplemented", "!"),
    concat!("dbg", "!"),
    concat!("#[", "ignore"),
];
/// Where only one machine keeps things.
const MACHINE_FOLDERS: &[&str] =
    &[concat!("/wo", "rk/"), concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/Us", "ers/")];
/// Where crates live.
const CRATES_FOLDER: &str = "crates/";

/// Where files or folders break the rules.
pub fn problems(workspace: &Workspace) -> Vec<String> {
    let of_files = workspace.files.iter().flat_map(problems_of_file);
    of_files.chain(workspace.packages.iter().filter_map(misplaced)).collect()
}

/// Where one file breaks the rules, each as `path:line: what`.
pub fn problems_of_file(file: &TextFile) -> Vec<String> {
    let is_code = CODE.contains(&file.extension());
    let mut problems = Vec::new();
    if is_code {
        problems.extend(missing_header(file));
        problems.extend(too_long(file));
    }
    for (number, line) in file.numbered_lines() {
        let found = problem_of_line(file, line, is_code);
        problems.extend(found.map(|what| format!("{}:{number}: {what}", file.path)));
    }
    if (is_code || is_prose(file)) && !file.text.is_empty() && !file.text.ends_with('\n') {
        problems.push(format!("{}: no newline at its end", file.path));
    }
    problems
}

fn is_prose(file: &TextFile) -> bool {
    PROSE.contains(&file.extension())
}

fn missing_header(file: &TextFile) -> Option<String> {
    let mut lines = file.text.lines().skip_while(|line| line.starts_with("#!"));
    let first = lines.next().unwrap_or("");
    let (opening, has_header) = match file.extension() {
        "rs" => ("//!", first.starts_with("//! ")),
        "py" => ("\"\"\"", first.starts_with("\"\"\"") || first.starts_with("# ")),
        "sh" => ("#", first.starts_with("# ")),
        _ => ("//", first.starts_with("// ")),
    };
    let what = "does not start with a comment that says what it is";
    (!has_header).then(|| format!("{}:1: {what} ({opening} …)", file.path))
}

fn too_long(file: &TextFile) -> Option<String> {
    let n_lines = file.text.lines().count();
    let is_too_long = n_lines > N_LINES_MAX && !TABLES.contains(&file.path.as_str());
    is_too_long.then(|| format!("{}: {n_lines} lines, at most {N_LINES_MAX}", file.path))
}

fn problem_of_line(file: &TextFile, line: &str, is_code: bool) -> Option<String> {
    let len = line.chars().count();
    if file.extension() == "rs" && len > LINE_LEN_MAX {
        return Some(format!("{len} characters, at most {LINE_LEN_MAX}"));
    }
    if (is_code || is_prose(file)) && line.trim_end() != line {
        return Some("white space at the end of the line".into());
    }
    let leftover = LEFTOVERS.iter().find(|word| is_code && has_word(line, word));
    if let Some(word) = leftover {
        return Some(format!("`{word}` left behind"));
    }
    let folder = MACHINE_FOLDERS.iter().find(|folder| names_folder(line, folder))?;
    Some(format!("a path of one machine (`{folder}`)"))
}

/// Whether `word` stands in `line` and is not a part of a longer word.
fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        let after = line[start + word.len()..].chars().next();
        !is_part(before) && !is_part(after)
    })
}

/// Whether an absolute path under `folder` stands in `line` (`a/home/b` is none).
fn names_folder(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric() && !"_-./}".contains(c))
    })
}

fn misplaced(package: &Package) -> Option<String> {
    let expected = format!("{CRATES_FOLDER}{}", package.name);
    let is_right = package.folder == expected || package.folder == "xtask";
    (!is_right)
        .then(|| format!("{}: package `{}` belongs in {expected}", package.folder, package.name))
}
