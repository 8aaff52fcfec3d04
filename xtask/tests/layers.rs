//! The walls between crates hold, and the check would see them fall.

use std::collections::BTreeSet;
use xtask::layers::problems;
use xtask::workspace::{Layer, Package, Workspace};

#[test]
fn crates_use_only_lower_layers() {
    let found = problems(&Workspace::read());
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// A workspace of three crates a (0), b (1), c (2) with these links; `c` must not reach `banned`.
fn workspace(links: &[(&str, &str)]) -> Workspace {
    let mut workspace = Workspace::default();
    for (number, name) in ["a", "b", "c"].into_iter().enumerate() {
        let must_not_reach = if name == "c" { vec!["banned".to_string()] } else { vec![] };
        let layer = Layer { number: number as u64, must_not_reach };
        workspace.layers.insert(name.into(), layer);
        let ours = links.iter().filter(|(from, _)| *from == name);
        let linked: BTreeSet<String> = ours.map(|(_, to)| to.to_string()).collect();
        workspace.packages.push(Package { name: name.into(), linked, ..Package::default() });
    }
    for (from, to) in links {
        workspace.links.entry(from.to_string()).or_default().insert(to.to_string());
    }
    workspace
}

fn check(links: &[(&str, &str)], expected: &[&str]) {
    assert_eq!(problems(&workspace(links)), expected, "{links:?}");
}

#[test]
fn the_check_sees_every_break() {
    check(&[("c", "a"), ("b", "a")], &[]);
    check(&[("a", "b")], &["a (layer 0) uses b (layer 1): only lower layers may be used"]);
    check(&[("b", "b")], &["b (layer 1) uses b (layer 1): only lower layers may be used"]);
    check(&[("c", "banned")], &["c must not reach banned: c -> banned"]);
    check(
        &[("c", "x"), ("x", "y"), ("y", "banned")],
        &["c must not reach banned: c -> x -> y -> banned"],
    );
    check(&[("b", "banned"), ("x", "y"), ("y", "x")], &[]);
}

#[test]
fn every_crate_has_a_layer_and_every_layer_a_crate() {
    let mut broken = workspace(&[]);
    broken.layers.remove("a");
    broken.layers.insert("ghost".into(), Layer::default());
    let expected = [
        "Cargo.toml: a layer for `ghost`, which is no crate",
        "Cargo.toml: crate `a` has no layer",
    ];
    assert_eq!(problems(&broken), expected);
}
