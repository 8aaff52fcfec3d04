//! What tests of flags share: a command line of `triptych serve`, and files that go with the test.

// Every test file uses a part of this.
#![allow(dead_code)]

use clap::Parser;
use config::{ServeConfig, ServeFlags, World};
use std::path::{Path, PathBuf};

/// The command line of `triptych serve`.
#[derive(Parser)]
pub(crate) struct Serve {
    #[command(flatten)]
    pub(crate) flags: ServeFlags,
}

/// Parses and resolves a command line whose model folder is this crate's, in a world that says
/// nothing.
pub(crate) fn serve(flags: &[&str]) -> Result<ServeConfig, String> {
    let start = ["serve", "--model-path", env!("CARGO_MANIFEST_DIR")];
    let parsed = Serve::try_parse_from(start.iter().chain(flags)).map_err(|e| e.to_string())?;
    parsed.flags.resolve(&World::default()).map_err(|error| error.to_string())
}

/// A command line is refused, in these words.
#[track_caller]
pub(crate) fn refused(flags: &[&str], words: &[&str]) {
    let error = serve(flags).expect_err("should be refused");
    for word in words {
        assert!(error.contains(word), "{flags:?}: {error:?} does not say {word:?}");
    }
}

/// A temporary folder of files with words in them, removed with the test.
pub(crate) struct Files(PathBuf);

impl Files {
    pub(crate) fn new(name: &str) -> Self {
        let name = format!("triptych-config-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
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

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
