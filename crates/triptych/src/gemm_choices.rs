//! The algorithms of matrix products, in a file that all roles of a GPU share: whichever of them
//! computes a product, its bits are the same.
//!
//! A file that cannot be read or written is told in the log and changes nothing else: without it,
//! the library is asked, which answers alike for the same GPU and version of itself.

use std::path::Path;
use tensor::cuda::{Cuda, GemmChoices};
use types::{Error, Result};

/// Uses what the file holds. To be called before the first product.
pub(crate) fn take_up(cuda: &Cuda, path: &Path) {
    match load(path) {
        Ok(choices) => cuda.use_gemm_choices(choices),
        Err(error) => tracing::warn!("--gemm-choices: {}", error.message),
    }
}

/// Adds to the file what has been chosen since.
pub(crate) fn keep(cuda: &Cuda, path: &Path) {
    if let Err(error) = add(path, cuda.gemm_choices()) {
        tracing::warn!("--gemm-choices: {}", error.message);
    }
}

fn load(path: &Path) -> Result<GemmChoices> {
    if path.exists() { GemmChoices::load(path) } else { Ok(GemmChoices::default()) }
}

/// What is there already stays as it is: others use it.
fn add(path: &Path, chosen: GemmChoices) -> Result<()> {
    let mut all = load(path)?;
    let n_before = all.len();
    all.extend(chosen);
    if all.len() == n_before {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| {
            Error::internal(format!("cannot make {}: {error}", folder.display()))
        })?;
    }
    all.save(path)
}
