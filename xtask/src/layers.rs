//! The walls between crates: who may use whom, and what must not be reached however indirectly.

use crate::workspace::{Layer, Package, Workspace};
use std::collections::{BTreeMap, BTreeSet};

/// Where the crates break `[workspace.metadata.layers]`.
pub fn problems(workspace: &Workspace) -> Vec<String> {
    let members: BTreeSet<&str> = workspace.packages.iter().map(|p| p.name.as_str()).collect();
    let strays = workspace.layers.keys().filter(|name| !members.contains(name.as_str()));
    let mut problems: Vec<String> =
        strays.map(|name| format!("Cargo.toml: a layer for `{name}`, which is no crate")).collect();
    for package in &workspace.packages {
        match workspace.layers.get(&package.name) {
            None => problems.push(format!("Cargo.toml: crate `{}` has no layer", package.name)),
            Some(layer) => problems.extend(problems_of(workspace, package, layer)),
        }
    }
    problems
}

fn problems_of(workspace: &Workspace, package: &Package, layer: &Layer) -> Vec<String> {
    let upward = package.linked.iter().filter_map(|used| {
        let theirs = workspace.layers.get(used)?.number;
        (theirs >= layer.number).then(|| {
            let (name, ours) = (&package.name, layer.number);
            format!(
                "{name} (layer {ours}) uses {used} (layer {theirs}): only lower layers may be used"
            )
        })
    });
    let reached = layer.must_not_reach.iter().filter_map(|banned| {
        let way = way_to(&workspace.links, &package.name, banned)?;
        Some(format!("{} must not reach {banned}: {}", package.name, way.join(" -> ")))
    });
    upward.chain(reached).collect()
}

/// The shortest chain of dependencies from one package to another.
fn way_to(links: &BTreeMap<String, BTreeSet<String>>, from: &str, to: &str) -> Option<Vec<String>> {
    let mut came_from: BTreeMap<&str, &str> = BTreeMap::new();
    let mut ring = vec![from];
    while !ring.is_empty() && !came_from.contains_key(to) {
        let mut next = Vec::new();
        for package in ring {
            for used in links.get(package).into_iter().flatten() {
                if used != from && !came_from.contains_key(used.as_str()) {
                    came_from.insert(used, package);
                    next.push(used.as_str());
                }
            }
        }
        ring = next;
    }
    let mut way = vec![to];
    while let Some(previous) = came_from.get(way[way.len() - 1]) {
        way.push(previous);
    }
    (way.len() > 1).then(|| way.into_iter().rev().map(String::from).collect())
}
