//! Rows that are picked, put, joined and converted, on whatever device they lie.
//!
//! Contract. Rows are those of the last dimension. On a GPU everything is given to the device's
//! stream and nobody waits for it, except where a copy to the host is asked for: so memory that a
//! copy reads or writes must stay what it is until the device has come that far.

use super::misuse;
use crate::cuda::{Arg, Cuda, Grid};
use crate::device::Device;
use crate::dtype::DType;
use crate::slab::SlabRange;
use crate::tensor::Tensor;
use half::{bf16, f16};
use std::ops::Range;
use types::Result;

/// Row `i` of the result is row `rows[i]` of `x`, of any type; `rows` is u32.
///
/// Errors: a row outside `x`. On a GPU, where the host does not see them, such rows become zeros.
pub fn gather_rows(device: &Device, x: &Tensor, rows: &Tensor) -> Result<Tensor> {
    if rows.dtype() != DType::U32 {
        return Err(misuse("gather_rows", "the rows are not given by number"));
    }
    let shape = [rows.n_elements(), x.row_len()];
    let mut y = Tensor::scratch_on(device, x.dtype(), &shape)?;
    match device {
        Device::Cpu(_) => gather_on_host(x, rows.as_slice(), &mut y)?,
        Device::Cuda(cuda) => gather_on_gpu(cuda, x, rows, &mut y)?,
    }
    Ok(y)
}

fn gather_on_host(x: &Tensor, rows: &[u32], y: &mut Tensor) -> Result<()> {
    if rows.iter().any(|&row| row as usize >= x.n_rows()) {
        return Err(misuse("gather_rows", "a row outside the input"));
    }
    let row_bytes = x.row_len() * x.dtype().n_bytes();
    let places = y.bytes_mut().chunks_exact_mut(row_bytes.max(1));
    for (to, &row) in places.zip(rows) {
        to.copy_from_slice(&x.bytes()[row as usize * row_bytes..][..row_bytes]);
    }
    Ok(())
}

/// Most threads of a block that copies one row, and bytes of a thread.
const ROW_THREADS_MAX: usize = 512;
const BYTES_OF_THREAD: usize = 32;

fn gather_on_gpu(cuda: &Cuda, x: &Tensor, rows: &Tensor, y: &mut Tensor) -> Result<()> {
    let row_bytes = x.row_len() * x.dtype().n_bytes();
    let n_threads = row_bytes.div_ceil(BYTES_OF_THREAD).next_multiple_of(32);
    let grid = Grid::line(rows.n_elements(), n_threads.clamp(32, ROW_THREADS_MAX) as u32);
    let n_rows = Arg::U32(x.n_rows() as u32);
    let (x, rows) = (Arg::tensor(x), Arg::tensor(rows));
    let args = [x, rows, Arg::mut_tensor(y), n_rows, Arg::I32(row_bytes as i32)];
    cuda.launch("rows", "gather_rows", grid, &args)
}

/// Copies rows `rows` of the f32 rows in `from` over those of `to`, from row `first_row` on.
///
/// Errors: rows outside either; memory of a GPU with the processor.
pub fn put_rows(
    device: &Device,
    to: &mut Tensor,
    first_row: usize,
    from: &SlabRange,
    rows: Range<usize>,
) -> Result<()> {
    let place = first_row..first_row + rows.len();
    let (read, written) = (span(to, &rows), span(to, &place));
    let fits = to.dtype() == DType::F32
        && rows.start <= rows.end
        && read.end <= from.n_bytes()
        && written.end <= to.n_bytes();
    if !fits {
        return Err(misuse("put_rows", "the rows lie outside the tensor or the memory"));
    }
    match (device, from.slab().arena().is_on_host()) {
        (Device::Cpu(_), true) => {
            to.bytes_mut()[written].copy_from_slice(&from.as_slice::<u8>()[read]);
            Ok(())
        }
        (Device::Cuda(cuda), true) => {
            cuda.upload(&from.as_slice::<u8>()[read], to.address() + written.start as u64)
        }
        (Device::Cuda(cuda), false) => {
            let target = to.address() + written.start as u64;
            cuda.copy(from.address() + read.start as u64, target, read.len())
        }
        (Device::Cpu(_), false) => Err(misuse("put_rows", "the rows lie on a GPU")),
    }
}

/// Copies rows `rows` of `x` to the beginning of `to`; waits for the device if `to` is the host's
/// and `x` is not.
///
/// Errors: rows outside `x`, or too many; memory of a GPU with the processor.
pub fn copy_to_range(
    device: &Device,
    x: &Tensor,
    rows: Range<usize>,
    to: &mut SlabRange,
) -> Result<()> {
    let read = span(x, &rows);
    if rows.start > rows.end || read.end > x.n_bytes() || read.len() > to.n_bytes() {
        return Err(misuse("copy_to_range", "the rows lie outside the tensor or the memory"));
    }
    let n_bytes = read.len();
    match (device, to.slab().arena().is_on_host()) {
        (Device::Cpu(_), true) => {
            to.as_mut_slice::<u8>()[..n_bytes].copy_from_slice(&x.bytes()[read]);
            Ok(())
        }
        (Device::Cuda(cuda), true) => {
            let from = x.address() + read.start as u64;
            cuda.download(from, &mut to.as_mut_slice::<u8>()[..n_bytes])
        }
        (Device::Cuda(cuda), false) => {
            cuda.copy(x.address() + read.start as u64, to.address(), n_bytes)
        }
        (Device::Cpu(_), false) => Err(misuse("copy_to_range", "the memory is a GPU's")),
    }
}

/// The bytes of some rows.
fn span(x: &Tensor, rows: &Range<usize>) -> Range<usize> {
    let row_bytes = x.row_len() * x.dtype().n_bytes();
    rows.start * row_bytes..rows.end * row_bytes
}

/// The rows of all `parts` in order; a single part is not copied.
///
/// Errors: no parts, or parts of other types or lengths of rows.
pub fn concatenated(device: &Device, mut parts: Vec<Tensor>) -> Result<Tensor> {
    let Some(first) = parts.first() else {
        return Err(misuse("concatenated", "nothing to join"));
    };
    let (dtype, row_len) = (first.dtype(), first.row_len());
    if parts.iter().any(|part| part.dtype() != dtype || part.row_len() != row_len) {
        return Err(misuse("concatenated", "parts with other types or lengths of rows"));
    }
    if parts.len() == 1 {
        return Ok(parts.remove(0));
    }
    let n_rows = parts.iter().map(Tensor::n_rows).sum();
    let mut whole = Tensor::scratch_on(device, dtype, &[n_rows, row_len])?;
    let mut at = 0;
    for part in &parts {
        let end = at + part.n_bytes();
        match device {
            Device::Cpu(_) => whole.bytes_mut()[at..end].copy_from_slice(part.bytes()),
            Device::Cuda(cuda) => {
                cuda.copy(part.address(), whole.address() + at as u64, part.n_bytes())?;
            }
        }
        at = end;
    }
    Ok(whole)
}

/// The same values in another type of floats, rounded to the nearest.
///
/// Errors: types that are no floats.
pub fn cast(device: &Device, x: Tensor, dtype: DType) -> Result<Tensor> {
    let is_float = |dtype| matches!(dtype, DType::F32 | DType::Bf16 | DType::F16);
    if !is_float(x.dtype()) || !is_float(dtype) {
        return Err(misuse("cast", "the elements are no floats"));
    }
    if x.dtype() == dtype {
        return Ok(x);
    }
    let mut y = Tensor::scratch_on(device, dtype, x.shape())?;
    match device {
        Device::Cpu(_) => cast_on_host(&x, &mut y),
        Device::Cuda(cuda) => cast_on_gpu(cuda, &x, &mut y)?,
    }
    Ok(y)
}

fn cast_on_host(x: &Tensor, y: &mut Tensor) {
    let widened: Vec<f32> = match x.dtype() {
        DType::F32 => x.as_f32().to_vec(),
        DType::Bf16 => x.as_slice::<bf16>().iter().map(|value| value.to_f32()).collect(),
        DType::F16 => x.as_slice::<f16>().iter().map(|value| value.to_f32()).collect(),
        DType::U8 | DType::U32 => unreachable!("checked by the caller"),
    };
    let values = widened.into_iter();
    match y.dtype() {
        DType::F32 => write(y, values, |value| value),
        DType::Bf16 => write(y, values, bf16::from_f32),
        DType::F16 => write(y, values, f16::from_f32),
        DType::U8 | DType::U32 => unreachable!("checked by the caller"),
    }
}

fn write<T: crate::Element>(
    y: &mut Tensor,
    values: impl Iterator<Item = f32>,
    round: impl Fn(f32) -> T,
) {
    y.as_mut_slice::<T>().iter_mut().zip(values).for_each(|(to, value)| *to = round(value));
}

/// Threads of a block that converts, and elements of a thread.
const CAST_THREADS: u32 = 256;
const CAST_ELEMENTS: usize = 4;

fn cast_on_gpu(cuda: &Cuda, x: &Tensor, y: &mut Tensor) -> Result<()> {
    let name = format!("cast_{}_{}", x.dtype().name(), y.dtype().name());
    let n_blocks = x.n_elements().div_ceil(CAST_THREADS as usize * CAST_ELEMENTS);
    let grid = Grid::line(n_blocks, CAST_THREADS);
    let args = [Arg::tensor(x), Arg::mut_tensor(y), Arg::U64(x.n_elements() as u64)];
    cuda.launch("rows", &name, grid, &args)
}

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;
