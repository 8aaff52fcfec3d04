//! The compiled CUDA kernels, one fatbin per file of `cu/`.
//!
//! `TRIPTYCH_KERNELS_DIR` names a folder whose `<name>.fatbin` files replace the embedded ones, so
//! that a kernel can be rebuilt by nvcc alone where no Rust compiler is.
//! Must not know tensors, drivers or devices.

use std::borrow::Cow;
use std::path::Path;

/// Name and fatbin of every file that was compiled; empty where nvcc was missing.
const FATBINS: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/fatbins.rs"));

/// The variable that names a folder of fatbins to use instead of the embedded ones.
const FOLDER_VARIABLE: &str = "TRIPTYCH_KERNELS_DIR";

/// Whether kernels were compiled into this program.
pub fn are_built_in() -> bool {
    !FATBINS.is_empty()
}

/// Names of the embedded fatbins.
pub fn names() -> impl Iterator<Item = &'static str> {
    FATBINS.iter().map(|(name, _)| *name)
}

/// The fatbin called `name`: the file in the folder of `TRIPTYCH_KERNELS_DIR` if it is there,
/// otherwise the embedded one.
///
/// Errors (a sentence): there is neither.
pub fn fatbin(name: &str) -> Result<Cow<'static, [u8]>, String> {
    let folder = std::env::var_os(FOLDER_VARIABLE);
    let replaced = folder.map(|folder| Path::new(&folder).join(format!("{name}.fatbin")));
    if let Some(bytes) = replaced.and_then(|path| std::fs::read(path).ok()) {
        return Ok(Cow::Owned(bytes));
    }
    let embedded = FATBINS.iter().find(|(embedded, _)| *embedded == name);
    let missing = || format!("the CUDA kernels \"{name}\" are not built into this program");
    embedded.map(|(_, bytes)| Cow::Borrowed(*bytes)).ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first bytes of every fatbin, little endian.
    const MAGIC: [u8; 4] = 0xBA55_ED50_u32.to_le_bytes();

    #[test]
    fn embedded_fatbins_are_fatbins() {
        for name in names() {
            assert_eq!(fatbin(name).unwrap()[..4], MAGIC, "{name}");
        }
    }

    #[test]
    fn a_missing_fatbin_is_named() {
        assert!(fatbin("no_such_kernels").unwrap_err().contains("no_such_kernels"));
    }
}
