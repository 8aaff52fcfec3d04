//! Memory straight from the system: zeroed when first touched, in huge pages where it has them.
//!
//! Huge pages matter twice: streaming through them misses few translations, and the kernel copies
//! to another process, as UCX has it do, at twice the rate, because it looks up a page for every
//! 2 MiB and not for every 4 KiB (`docs/decisions.md`).

use memmap2::MmapMut;
use std::io;

/// `n_bytes` of zeros, at least one.
///
/// Errors: the system refuses.
pub(crate) fn zeroed(n_bytes: usize) -> io::Result<MmapMut> {
    let map = MmapMut::map_anon(n_bytes.max(1))?;
    // Only a hint: without huge pages everything works, slower.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    Ok(map)
}
