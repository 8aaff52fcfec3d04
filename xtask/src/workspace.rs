//! The tree as the checks see it: tracked text files, and packages as cargo describes them.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A tracked file that is UTF-8 text.
#[derive(Debug, Clone)]
pub struct TextFile {
    /// Path from the root, with `/`.
    pub path: String,
    /// All of it.
    pub text: String,
}

impl TextFile {
    /// What follows the last dot of its name; empty when there is none.
    pub fn extension(&self) -> &str {
        self.path.rsplit('/').next().and_then(|name| name.rsplit_once('.')).map_or("", |(_, e)| e)
    }

    /// Its lines with their numbers, from 1.
    pub fn numbered_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.split('\n').enumerate().map(|(idx, line)| (idx + 1, line))
    }
}

/// A crate of ours.
#[derive(Debug, Clone, Default)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its folder from the root.
    pub folder: String,
    /// Names of all that it declares, dev- and build-dependencies included.
    pub declared: BTreeSet<String>,
    /// Names of what its own code and build script are linked with, one step away.
    pub linked: BTreeSet<String>,
}

/// A crate's place, from `[workspace.metadata.layers]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layer {
    /// It may use only crates with a smaller number.
    pub number: u64,
    /// Packages that it must not be linked with, however indirectly.
    pub must_not_reach: Vec<String>,
}

/// Everything the checks look at.
#[derive(Debug, Clone, Default)]
pub struct Workspace {
    /// Every tracked path, from the root.
    pub paths: BTreeSet<String>,
    /// Those of them that are text.
    pub files: Vec<TextFile>,
    /// Our own crates.
    pub packages: Vec<Package>,
    /// The layers by crate name.
    pub layers: BTreeMap<String, Layer>,
    /// Normal dependencies of every package in the build, ours and others', by name.
    pub links: BTreeMap<String, BTreeSet<String>>,
}

impl Workspace {
    /// Reads this repository: `git ls-files` for the files, `cargo metadata` for the packages.
    ///
    /// # Panics
    /// When either cannot be run: these checks are for a checkout.
    pub fn read() -> Self {
        let paths = tracked_paths();
        let files = paths.iter().filter_map(|path| read_text(path)).collect();
        let metadata = metadata();
        Self {
            paths,
            files,
            packages: packages(&metadata),
            layers: layers(&metadata),
            links: links(&metadata),
        }
    }

    /// The text of one file; empty when there is no such file.
    pub fn text(&self, path: &str) -> &str {
        self.files.iter().find(|file| file.path == path).map_or("", |file| &file.text)
    }

    /// Whether `path` is a tracked file or a folder with one in it.
    pub fn has_path(&self, path: &str) -> bool {
        let path = path.trim_start_matches("./").trim_end_matches('/');
        let inside = format!("{path}/");
        self.paths.contains(path) || self.paths.iter().any(|tracked| tracked.starts_with(&inside))
    }
}

/// The folder of the workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is in the root").to_path_buf()
}

fn output_of(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).current_dir(root()).output();
    let output = output.unwrap_or_else(|error| panic!("{program} {args:?}: {error}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn tracked_paths() -> BTreeSet<String> {
    let listed = output_of("git", &["ls-files", "-z"]);
    // A file deleted but not yet committed is still listed.
    let there = |path: &&str| root().join(path).is_file();
    listed.split('\0').filter(|path| !path.is_empty()).filter(there).map(String::from).collect()
}

fn read_text(path: &str) -> Option<TextFile> {
    let text = std::fs::read_to_string(root().join(path)).ok()?;
    Some(TextFile { path: path.to_string(), text })
}

fn metadata() -> Value {
    let text = output_of(env!("CARGO"), &["metadata", "--format-version=1"]);
    serde_json::from_str(&text).expect("cargo metadata prints JSON")
}

fn packages(metadata: &Value) -> Vec<Package> {
    let ours: BTreeSet<&str> =
        list(&metadata["workspace_members"]).iter().filter_map(Value::as_str).collect();
    let members = list(&metadata["packages"]).iter().filter(|p| ours.contains(word(&p["id"])));
    members.map(package).collect()
}

fn package(value: &Value) -> Package {
    let manifest = Path::new(word(&value["manifest_path"]));
    let folder = manifest.parent().and_then(|folder| folder.strip_prefix(root()).ok());
    let dependencies = list(&value["dependencies"]);
    let linked = dependencies.iter().filter(|dependency| dependency["kind"] != "dev");
    Package {
        name: word(&value["name"]).to_string(),
        folder: folder.map(|folder| folder.display().to_string()).unwrap_or_default(),
        declared: dependencies.iter().map(|d| word(&d["name"]).to_string()).collect(),
        linked: linked.map(|d| word(&d["name"]).to_string()).collect(),
    }
}

fn layers(metadata: &Value) -> BTreeMap<String, Layer> {
    let table = metadata["metadata"]["layers"].as_object();
    table.into_iter().flatten().map(|(name, value)| (name.clone(), layer(value))).collect()
}

fn layer(value: &Value) -> Layer {
    let banned = list(&value["must_not_reach"]).iter();
    Layer {
        number: value["layer"].as_u64().expect("a layer is a number"),
        must_not_reach: banned.map(|name| word(name).to_string()).collect(),
    }
}

/// The resolved graph without dev- and build-dependencies.
fn links(metadata: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let packages = list(&metadata["packages"]).iter();
    let names: BTreeMap<&str, &str> =
        packages.map(|p| (word(&p["id"]), word(&p["name"]))).collect();
    let name = |id: &Value| names.get(word(id)).map_or_else(String::new, ToString::to_string);
    let is_normal =
        |dep: &&Value| list(&dep["dep_kinds"]).iter().any(|kind| kind["kind"].is_null());
    let mut links: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for node in list(&metadata["resolve"]["nodes"]) {
        let deps = list(&node["deps"]).iter().filter(is_normal).map(|dep| name(&dep["pkg"]));
        links.entry(name(&node["id"])).or_default().extend(deps);
    }
    links
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}
