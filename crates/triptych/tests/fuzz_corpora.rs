//! Reads every file that the fuzzer keeps, so that what it found once stays found: without a panic,
//! in bounded time and memory.

#[allow(unreachable_pub, clippy::missing_panics_doc)]
#[path = "../../../fuzz/src/lib.rs"]
mod fuzz;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest time for one file, on a machine that builds beside it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Most memory that the process may have taken, in KiB.
const MEMORY_KIB_MAX: u64 = 1 << 20;

/// Most bytes of all files.
const CORPORA_BYTES_MAX: u64 = 1 << 20;

fn corpora() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus")
}

/// The files of a folder, in order.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn memory_kib_max() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn check(name: &str) {
    let (_, target) = fuzz::TARGETS.iter().find(|(known, _)| *known == name).expect("a target");
    let files = files(&corpora().join(name));
    assert!(!files.is_empty(), "{name} has no corpus");
    for file in &files {
        let (bytes, start) = (std::fs::read(file).unwrap(), Instant::now());
        target(&bytes);
        assert!(start.elapsed() < PATIENCE, "{}: {:?}", file.display(), start.elapsed());
        let most = memory_kib_max();
        assert!(most < MEMORY_KIB_MAX, "{}: {most} KiB", file.display());
    }
    println!("{name}: {} files, most memory {} MiB", files.len(), memory_kib_max() >> 10);
}

#[test]
fn requests() {
    check("request");
}

#[test]
fn data_urls() {
    check("data_url");
}

#[test]
fn pictures() {
    check("picture");
}

#[test]
fn templates() {
    check("template");
}

#[test]
fn tokenizers() {
    check("tokenizer");
}

#[test]
fn messages_between_workers() {
    check("wire");
}

#[test]
fn there_is_a_small_corpus_for_every_target() {
    let folders: BTreeSet<_> = files(&corpora())
        .iter()
        .map(|folder| folder.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    let targets = fuzz::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(folders, targets);
    let files = folders.iter().flat_map(|name| files(&corpora().join(name)));
    let n_bytes: u64 = files.map(|file| file.metadata().unwrap().len()).sum();
    assert!(n_bytes <= CORPORA_BYTES_MAX, "{n_bytes} bytes");
}
