//! The documents are true as far as a machine can tell, and the check sees a lie.

use std::collections::BTreeSet;
use xtask::docs::problems;
use xtask::workspace::{Layer, Package, TextFile, Workspace};

#[test]
fn the_documents_are_true() {
    let found = problems(&Workspace::read());
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// One crate `engine` with a dependency and a layer, and true documents; then one file more.
fn workspace(path: &str, text: &str) -> Workspace {
    let mut workspace = Workspace::default();
    let files = [
        ("crates/engine/src/lib.rs", "fn it_holds() {}"),
        ("crates/engine/src/core.rs", "impl Core { fn run<T>() {} }"),
        ("crates/router/src/spine.rs", "info_span!(\"plan\")"),
        ("docs/life-of-a-request.md", "```spans\nplan\n```"),
        ("docs/decisions.md", "| `serde` | JSON. |\n"),
        ("docs/architecture.md", "| 4 | `engine` | runs | `tokio`, `planes` |\n"),
        (path, text),
    ];
    for (path, text) in files {
        workspace.paths.insert(path.into());
        workspace.files.retain(|file| file.path != path);
        workspace.files.push(TextFile { path: path.into(), text: text.into() });
    }
    workspace.packages.push(Package {
        name: "engine".into(),
        folder: "crates/engine".into(),
        declared: BTreeSet::from(["serde".into()]),
        ..Package::default()
    });
    let must_not_reach = vec!["tokio".into(), "planes".into()];
    workspace.layers.insert("engine".into(), Layer { number: 4, must_not_reach });
    workspace
}

fn check(path: &str, text: &str, expected: &[&str]) {
    assert_eq!(problems(&workspace(path, text)), expected, "{text:?}");
}

#[test]
fn paths_exist() {
    check(
        "docs/a.md",
        "See `crates/engine`, `docs/a.md`, `POST /v1/models`, `n/a` and `e,p,d`.",
        &[],
    );
    check("docs/a.md", "See `crates/motor/`.", &["docs/a.md:1: there is no `crates/motor/`"]);
    check("README.md", "\n`./run.sh --once`", &["README.md:2: there is no `./run.sh`"]);
    check(
        "README.md",
        "[a](docs/b.md#top) [b](https://a.b/c.md)",
        &["README.md:1: there is no `docs/b.md`"],
    );
    check("docs/a.md", "`nowhere/at/all.rs`", &["docs/a.md:1: there is no `nowhere/at/all.rs`"]);
    check("notes.md", "`docs/missing.md`", &[]);
}

#[test]
fn invariants_name_their_tests() {
    check("docs/a.md", "Invariant: it holds (test `engine::it_holds`).", &[]);
    check("docs/a.md", "Invariant: it holds.", &["docs/a.md:1: an invariant without a test"]);
    let expected = ["docs/a.md:1: the code has no `engine::it_fails`"];
    check("docs/a.md", "Invariant: it fails (test `engine::it_fails`).", &expected);
}

#[test]
fn items_exist() {
    let check_name = |name: &str, is_there: bool| {
        let expected = format!("docs/a.md:1: the code has no `{name}`");
        let expected: &[&str] = if is_there { &[] } else { &[&expected] };
        check("docs/a.md", &format!("See `{name}`."), expected);
    };
    check_name("engine::it_holds", true);
    check_name("engine::it_hold", false);
    check_name("engine::core::run", true);
    check_name("engine::core::Core::run", true);
    check_name("engine::mock::run", false);
    check_name("engine::core::walk", false);
    check_name("tokio::spawn", true);
}

#[test]
fn spans_are_the_opened_ones() {
    let told = |spans: &str| format!("Spans:\n```spans\n{spans}\n```\n");
    check("docs/life-of-a-request.md", &told("plan"), &[]);
    let expected = ["docs/life-of-a-request.md: no word of span `plan`"];
    check("docs/life-of-a-request.md", &told(""), &expected);
    let expected = ["docs/life-of-a-request.md: nobody opens span `dream`"];
    check("docs/life-of-a-request.md", &told("plan dream"), &expected);
}

#[test]
fn dependencies_have_reasons() {
    check("docs/decisions.md", "", &["docs/decisions.md: no row for `serde`"]);
    let text = "| `serde` | JSON. |\n| `regex` | No one knows. |\n";
    check("docs/decisions.md", text, &["docs/decisions.md: nothing uses `regex`"]);
}

#[test]
fn layers_are_the_enforced_ones() {
    let told = "| 3 | `engine` | runs | `tokio`, `planes` |\n";
    let expected = [
        "docs/architecture.md: no row 4 | `engine` | … | `tokio`, `planes`",
        "docs/architecture.md: not so: 3 | `engine` | … | `tokio`, `planes`",
    ];
    check("docs/architecture.md", told, &expected);
}
