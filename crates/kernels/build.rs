//! Compiles every `cu/*.cu` with nvcc into a fatbin and writes the table that `src/lib.rs` embeds.
//!
//! Without nvcc the table is empty, and CUDA is reported as not built in when it is asked for.
//! Objects are kept in the target folder by a hash of everything that goes into them, so a change
//! of one file compiles one file, once for all profiles.

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Machine code for Ampere and Hopper, and portable code for what comes after.
const TARGETS: &[&str] = &[
    "-gencode=arch=compute_80,code=sm_80",
    "-gencode=arch=compute_90a,code=sm_90a",
    "-gencode=arch=compute_90,code=compute_90",
];

const FLAGS: &[&str] = &[
    "--fatbin",
    "-std=c++17",
    "-O3",
    "-lineinfo",
    // Registers that spill to memory are worth a warning wherever they happen.
    "-Xptxas=--warn-on-spills",
    "--expt-relaxed-constexpr",
];

fn main() {
    println!("cargo::rerun-if-changed=cu");
    println!("cargo::rerun-if-changed=build.rs");
    // Not PATH: it differs from shell to shell, and everything would be built again each time.
    for name in ["NVCC", "CUDA_HOME"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let built = match find_nvcc() {
        Some(nvcc) => {
            let kept = kept_folder(&out);
            fs::create_dir_all(&kept).expect("the target folder is writable");
            compile_all(&nvcc, &kept)
        }
        None => {
            println!(
                "cargo::warning=nvcc was not found (NVCC, CUDA_HOME, PATH): CUDA is not built in"
            );
            Vec::new()
        }
    };
    let mut table = String::from("&[\n");
    for (name, path) in built {
        writeln!(table, "    ({name:?}, include_bytes!({path:?})),").expect("strings grow");
    }
    table.push_str("]\n");
    fs::write(out.join("fatbins.rs"), table).expect("OUT_DIR is writable");
}

/// Where objects of all profiles are kept: `kernels` beside the profiles' folders, one of which
/// `out` is in; `out` itself where cargo has put it elsewhere.
fn kept_folder(out: &Path) -> PathBuf {
    let build = out.ancestors().find(|folder| folder.ends_with("build"));
    let target = build.and_then(Path::parent).and_then(Path::parent);
    target.map_or_else(|| out.to_owned(), |target| target.join("kernels"))
}

fn find_nvcc() -> Option<PathBuf> {
    let named = env::var_os("NVCC").map(PathBuf::from);
    let in_home = env::var_os("CUDA_HOME").map(|home| Path::new(&home).join("bin/nvcc"));
    let path = env::var_os("PATH").unwrap_or_default();
    let in_path = env::split_paths(&path).map(|folder| folder.join("nvcc"));
    named.into_iter().chain(in_home).chain(in_path).find(|candidate| candidate.is_file())
}

/// Compiles what has changed, as many files at a time as cargo allows; name and fatbin of each.
fn compile_all(nvcc: &Path, out: &Path) -> Vec<(String, PathBuf)> {
    let salt = salt(nvcc);
    let sources = sources(Path::new("cu"));
    let next = AtomicUsize::new(0);
    let built = Mutex::new(Vec::new());
    let n_jobs = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1_usize);
    std::thread::scope(|scope| {
        for _ in 0..n_jobs.min(sources.len()) {
            scope.spawn(|| {
                while let Some(source) = sources.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let one = compile(nvcc, source, (out, salt));
                    built.lock().expect("no thread panics while it holds this").push(one);
                }
            });
        }
    });
    let mut built = built.into_inner().expect("all threads have ended");
    built.sort();
    built
}

/// Everything besides a source itself that its object depends on.
fn salt(nvcc: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    let version = Command::new(nvcc).arg("--version").output();
    version.map(|output| output.stdout).unwrap_or_default().hash(&mut hasher);
    (TARGETS, FLAGS).hash(&mut hasher);
    for header in files(Path::new("cu/common")) {
        fs::read(header).expect("a header can be read").hash(&mut hasher);
    }
    hasher.finish()
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    files(folder).into_iter().filter(|path| path.extension().is_some_and(|e| e == "cu")).collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    paths.sort();
    paths
}

fn compile(nvcc: &Path, source: &Path, (out, salt): (&Path, u64)) -> (String, PathBuf) {
    let name = source.file_stem().expect("a source has a name").to_string_lossy().into_owned();
    let mut hasher = DefaultHasher::new();
    (salt, fs::read(source).expect("a source can be read")).hash(&mut hasher);
    let target = out.join(format!("{name}-{:016x}.fatbin", hasher.finish()));
    if !target.exists() {
        // Builds of several profiles may run at once.
        let partial = target.with_extension(format!("{}.partial", std::process::id()));
        let output = Command::new(nvcc)
            .args(FLAGS)
            .args(TARGETS)
            .arg(source)
            .arg("-o")
            .arg(&partial)
            .output()
            .unwrap_or_else(|error| panic!("cannot run {}: {error}", nvcc.display()));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "nvcc failed on {}:\n{said}", source.display());
        for line in said.lines().filter(|line| !line.trim().is_empty()) {
            println!("cargo::warning={name}: {line}");
        }
        fs::rename(&partial, &target).expect("the target folder is writable");
    }
    (name, target)
}
