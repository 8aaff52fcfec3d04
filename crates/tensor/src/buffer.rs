//! Host memory of tensors: aligned to cache lines, and kept for reuse, because fresh pages cost more
//! than most operations that fill them (a fault per 4 KiB, about 0.1 to 0.2 µs each).

use std::sync::{Mutex, PoisonError};

/// Most bytes kept for reuse in the whole process.
const KEPT_BYTES_MAX: usize = 256 << 20;
/// Most buffers kept for reuse.
const KEPT_BUFFERS_MAX: usize = 64;
/// A kept buffer serves a request of at least this share of its size, so that none is wasted.
const FIT_DIVISOR: usize = 2;

/// A cache line: the unit of allocation, and the alignment.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Bytes of a tensor. They are always initialised.
pub(crate) struct Buffer {
    lines: Vec<Line>,
    n_bytes: usize,
}

static KEPT: Mutex<Vec<Vec<Line>>> = Mutex::new(Vec::new());

impl Buffer {
    /// A buffer of `n_bytes` with unspecified contents.
    pub(crate) fn of(n_bytes: usize) -> Self {
        let n_lines = n_bytes.div_ceil(64);
        let lines = kept(n_lines).unwrap_or_else(|| vec![Line([0; 64]); n_lines]);
        Self { lines, n_bytes }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `lines` owns at least `n_bytes` initialised bytes (see `of`).
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.n_bytes) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.n_bytes) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        keep(std::mem::take(&mut self.lines));
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} bytes)", self.n_bytes)
    }
}

/// The smallest kept buffer that holds `n_lines` without wasting more than it uses.
fn kept(n_lines: usize) -> Option<Vec<Line>> {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let fits = |lines: &Vec<Line>| lines.len() >= n_lines && lines.len() / FIT_DIVISOR <= n_lines;
    let candidates = kept.iter().enumerate().filter(|(_, lines)| fits(lines));
    let (idx, _) = candidates.min_by_key(|(_, lines)| lines.len())?;
    Some(kept.swap_remove(idx))
}

fn keep(lines: Vec<Line>) {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let n_bytes: usize = kept.iter().map(|lines| lines.len() * 64).sum();
    if kept.len() < KEPT_BUFFERS_MAX && n_bytes + lines.len() * 64 <= KEPT_BYTES_MAX {
        kept.push(lines);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_as_long_as_asked() {
        for n_bytes in [0, 1, 63, 64, 65, 1000, 1 << 20] {
            let mut buffer = Buffer::of(n_bytes);
            assert_eq!(buffer.bytes().len(), n_bytes);
            assert_eq!(buffer.bytes_mut().as_ptr() as usize % 64, 0);
        }
    }
}
