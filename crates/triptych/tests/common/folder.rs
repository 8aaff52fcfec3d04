//! A temporary folder and the files that a test puts there; both go with the test.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Numbers, so that no two of a process are the same.
static N_FOLDERS: AtomicUsize = AtomicUsize::new(0);

/// A folder that is removed with all in it when this is dropped.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let number = N_FOLDERS.fetch_add(1, Ordering::Relaxed);
        let name = format!("triptych-{name}-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file; gives its path.
    pub(crate) fn write(&self, name: &str, words: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, words).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
