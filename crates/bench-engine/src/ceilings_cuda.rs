//! The rates of a GPU's memory, by kernels that do nothing else.

use crate::ceilings::{Random, seconds};
use std::sync::Arc;
use tensor::Device;
use tensor::cuda::{Arg, Cuda, Grid};
use types::Result;

/// Bytes of each of the two areas: far more than caches hold.
const N_BYTES: usize = 4 << 30;
/// Bytes that a thread moves at a time.
const UNIT_BYTES: usize = 16;
/// Threads of a block, and blocks of a multiprocessor: as many threads as it holds.
const N_THREADS: u32 = 512;
const BLOCKS_PER_MULTIPROCESSOR: usize = 4;
/// Random bytes that are made on the host.
const PIECE_BYTES: usize = 32 << 20;
/// Part of the free memory that is taken at most.
const FREE_DIVISOR: usize = 4;

/// Bytes read a second, and bytes read and written a second in a copy.
///
/// Errors: the GPU has no memory left, or fails.
pub(crate) fn memory(cuda: &Arc<Cuda>) -> Result<(f64, f64)> {
    let device = Device::Cuda(Arc::clone(cuda));
    let n_bytes = N_BYTES.min(cuda.context().memory()?.n_bytes_free / FREE_DIVISOR);
    let n_units = n_bytes / UNIT_BYTES;
    let (from, to) = (device.arena(n_bytes)?, device.arena(n_bytes)?);
    let n_blocks = cuda.context().n_multiprocessors() * BLOCKS_PER_MULTIPROCESSOR;
    let grid = Grid::line(n_blocks, N_THREADS);
    let addresses = [from.base() as u64, to.base() as u64].map(Arg::Address);
    let args = [addresses[0], addresses[1], Arg::U64(n_units as u64)];
    let moved = (n_units * UNIT_BYTES) as f64;
    fill(cuda, from.base() as u64, n_bytes)?;
    let copy = seconds(&device, || cuda.launch("ceilings", "copy_units", grid, &args))?;
    let [from, to] = [from.base() as u64, to.base() as u64];
    let copy_of_driver = seconds(&device, || cuda.copy(from, to, n_units * UNIT_BYTES))?;
    let copy = copy.min(copy_of_driver);
    let read = seconds(&device, || cuda.launch("ceilings", "read_units", grid, &args))?;
    Ok((moved / read, 2.0 * moved / copy))
}

/// Fills memory with random bytes, of which a piece is made here: zeros would be faster to read.
fn fill(cuda: &Cuda, address: u64, n_bytes: usize) -> Result<()> {
    let mut random = Random::new(1);
    let n_words = PIECE_BYTES.min(n_bytes) / size_of::<u64>();
    let piece: Vec<u64> = std::iter::repeat_with(|| random.next()).take(n_words).collect();
    let piece: &[u8] = bytemuck::cast_slice(&piece);
    cuda.upload(piece, address)?;
    let mut n_filled = piece.len();
    while n_filled < n_bytes {
        let n = n_filled.min(n_bytes - n_filled);
        cuda.copy(address, address + n_filled as u64, n)?;
        n_filled += n;
    }
    Ok(())
}
