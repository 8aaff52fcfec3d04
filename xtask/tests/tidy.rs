//! The tree keeps its rules of form, and each rule would notice a file that breaks it.

use xtask::tidy::{problems, problems_of_file};
use xtask::workspace::{Package, TextFile, Workspace};
use xtask::wrap::wrapped;

#[test]
fn the_tree_is_tidy() {
    let found = problems(&Workspace::read());
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

fn check(path: &str, text: &str, expected: &[&str]) {
    let file = TextFile { path: path.into(), text: text.into() };
    assert_eq!(problems_of_file(&file), expected, "{text:?}");
}

#[test]
fn a_file_says_what_it_is() {
    check("a.rs", "//! A file.\n", &[]);
    check(
        "a.rs",
        "fn f() {}\n",
        &["a.rs:1: does not start with a comment that says what it is (//! …)"],
    );
    check("a.sh", "#!/bin/sh\n# A script.\n", &[]);
    check(
        "a.sh",
        "#!/bin/sh\nset -e\n",
        &["a.sh:1: does not start with a comment that says what it is (# …)"],
    );
    check("a.py", "\"\"\"A script.\"\"\"\n", &[]);
    check("a.py", "", &["a.py:1: does not start with a comment that says what it is (\"\"\" …)"]);
    check(
        "a.cu",
        "__global__\n",
        &["a.cu:1: does not start with a comment that says what it is (// …)"],
    );
}

#[test]
fn files_and_lines_end_in_time() {
    let long_file = format!("//! Long.\n{}", "\n".repeat(800));
    check("a.rs", &long_file, &["a.rs: 801 lines, at most 800"]);
    check("a.rs", &format!("//! {}é\n", "x".repeat(95)), &[]);
    check("a.rs", &format!("//! {}\n", "x".repeat(97)), &["a.rs:1: 101 characters, at most 100"]);
    check("a.rs", "//! A. \n", &["a.rs:1: white space at the end of the line"]);
    check("a.md", "A.", &["a.md: no newline at its end"]);
    check("data.json", "{} ", &[]);
}

#[test]
fn nothing_is_left_behind() {
    let mark = ["TO", "DO"].concat();
    check(
        "a.rs",
        &format!("//! A.\n// {mark}: more\n"),
        &[&format!("a.rs:2: `{mark}` left behind")],
    );
    let mark = ["XX", "X"].concat();
    check("a.sh", &format!("# A.\nmktemp a.{mark}{mark}\n"), &[]);
    check("a.sh", &format!("# {mark}\n"), &[&format!("a.sh:1: `{mark}` left behind")]);
    let mark = ["#[ign", "ore"].concat();
    check("a.rs", &format!("//! A.\n{mark}]\n"), &[&format!("a.rs:2: `{mark}` left behind")]);
}

#[test]
fn no_path_of_one_machine() {
    let folder = ["/ho", "me/"].concat();
    let expected = format!("a.json:1: a path of one machine (`{folder}`)");
    check("a.json", &format!("\"{folder}me/model\"\n"), &[&expected]);
    check("a.json", &format!("\"docs{folder}me\"\n"), &[]);
}

#[test]
fn a_crate_lives_in_the_folder_of_its_name() {
    let package = |name: &str, folder: &str| Package {
        name: name.into(),
        folder: folder.into(),
        ..Package::default()
    };
    let packages = vec![package("a", "crates/a"), package("b", "crates/bee")];
    let found = problems(&Workspace { packages, ..Workspace::default() });
    assert_eq!(found, ["crates/bee: package `b` belongs in crates/b"]);
}

#[test]
fn long_comments_are_wrapped() {
    let check = |lines: &[&str], expected: &[&str]| {
        assert_eq!(wrapped(&lines.join("\n")), expected.join("\n"));
    };
    let (fits, word) = ("x".repeat(96), "y".repeat(96));
    let line = |text: &str| format!("/// {text}");
    check(&[&line(&fits), "fn f() {}"], &[&line(&fits), "fn f() {}"]);
    check(&[&line(&format!("{fits} over"))], &[&line(&fits), "/// over"]);
    check(&[&line(&format!("{fits} over")), "/// there"], &[&line(&fits), "/// over there"]);
    check(
        &[&line(&format!("{fits} {word} z")), "///"],
        &[&line(&fits), &line(&word), "/// z", "///"],
    );
    check(
        &[&line(&format!("{fits} over")), "/// - item"],
        &[&line(&fits), "/// over", "/// - item"],
    );
    check(&[&format!("let a = \"{fits} {fits}\";")], &[&format!("let a = \"{fits} {fits}\";")]);
    let accents = format!("{}b", "é ".repeat(47));
    check(&[&line(&accents)], &[&line(&accents)]);
    check(&[&line(&format!("{accents} éé"))], &[&line(&accents), "/// éé"]);
}
