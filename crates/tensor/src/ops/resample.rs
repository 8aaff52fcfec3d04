//! Grids of features at another size: bilinear, or as averages over areas.
//!
//! Contract. `x` `[.., h, w, c]`, one grid or several of equal size; result `[.., h', w', c]` of
//! the same type (f32 on the processor), computed in f32. Bilinear: the centre of result `i` of
//! `n'` lies at `(i + 1/2) · n / n' - 1/2` among the inputs, and not before the first of them
//! (PyTorch's `align_corners=False` without antialiasing). Areas: the mean of the inputs from
//! `floor(i · n / n')` to before `ceil((i + 1) · n / n')` (its `adaptive_avg_pool2d`).

use super::misuse;
use crate::cuda::{Arg, Cuda, Grid};
use crate::device::Device;
use crate::dtype::DType;
use crate::tensor::Tensor;
use crate::threads::Threads;
use std::ops::Range;
use types::Result;

/// Rows and columns of a grid of features.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GridSize {
    /// Rows.
    pub h: usize,
    /// Columns.
    pub w: usize,
}

/// Interpolates between neighbours.
///
/// Errors: shapes that are no grids, or empty ones.
pub fn bilinear(device: &Device, x: &Tensor, size: GridSize) -> Result<Tensor> {
    run(device, Method::Bilinear, x, size)
}

/// Averages over areas.
///
/// Errors: shapes that are no grids, or empty ones.
pub fn area_mean(device: &Device, x: &Tensor, size: GridSize) -> Result<Tensor> {
    run(device, Method::Area, x, size)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Bilinear,
    Area,
}

/// Sizes before and after.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    from: GridSize,
    to: GridSize,
    n_channels: usize,
    n_grids: usize,
}

/// Most grids at a time: a limit of launches.
const GRIDS_MAX: usize = 65_535;

fn run(device: &Device, method: Method, x: &Tensor, to: GridSize) -> Result<Tensor> {
    let &[ref outer @ .., h, w, n_channels] = x.shape() else {
        return Err(misuse("resample", "the input has no rows, columns and channels"));
    };
    let sizes = Sizes { from: GridSize { h, w }, to, n_channels, n_grids: outer.iter().product() };
    if h * w * to.h * to.w == 0 || sizes.n_grids > GRIDS_MAX {
        return Err(misuse("resample", "an empty grid, or too many"));
    }
    let shape: Vec<usize> = outer.iter().copied().chain([to.h, to.w, n_channels]).collect();
    let mut y = Tensor::scratch_on(device, x.dtype(), &shape)?;
    match device {
        Device::Cpu(threads) => run_cpu(threads, method, (x, sizes), &mut y),
        Device::Cuda(cuda) => run_cuda(cuda, method, (x, sizes), &mut y)?,
    }
    Ok(y)
}

fn run_cpu(threads: &Threads, method: Method, (x, sizes): (&Tensor, Sizes), y: &mut Tensor) {
    let row_len = sizes.to.w * sizes.n_channels;
    let x = x.as_f32();
    threads.for_each_chunk(y.as_mut_slice::<f32>(), row_len.max(1), &|idx, row| {
        let grid_len = sizes.from.h * sizes.from.w * sizes.n_channels;
        let grid = &x[idx / sizes.to.h * grid_len..][..grid_len];
        match method {
            Method::Bilinear => bilinear_row(grid, sizes, idx % sizes.to.h, row),
            Method::Area => area_row(grid, sizes, idx % sizes.to.h, row),
        }
    });
}

/// Where a result lies between two inputs: `low` with `1 - weight`, `high` with `weight`.
struct Between {
    low: usize,
    high: usize,
    weight: f32,
}

impl Between {
    /// Computed with whole numbers, so that the place is exact.
    fn of(idx: usize, n: usize, n_out: usize) -> Self {
        let above = ((2 * idx + 1) * n).saturating_sub(n_out);
        let (low, rest) = (above / (2 * n_out), above % (2 * n_out));
        Self { low, high: (low + 1).min(n - 1), weight: rest as f32 / (2 * n_out) as f32 }
    }
}

fn bilinear_row(grid: &[f32], sizes: Sizes, idx: usize, to: &mut [f32]) {
    let (n, row_len) = (sizes.n_channels, sizes.from.w * sizes.n_channels);
    let rows = Between::of(idx, sizes.from.h, sizes.to.h);
    let [upper, lower] = [rows.low, rows.high].map(|row| &grid[row * row_len..][..row_len]);
    for (column, to) in to.chunks_exact_mut(n).enumerate() {
        let columns = Between::of(column, sizes.from.w, sizes.to.w);
        let mix = |row: &[f32], i: usize| {
            let (a, b) = (row[columns.low * n + i], row[columns.high * n + i]);
            (1.0 - columns.weight) * a + columns.weight * b
        };
        for (i, to) in to.iter_mut().enumerate() {
            *to = (1.0 - rows.weight) * mix(upper, i) + rows.weight * mix(lower, i);
        }
    }
}

/// The inputs that result `idx` of `n_out` is the mean of.
fn area_of(idx: usize, n: usize, n_out: usize) -> Range<usize> {
    idx * n / n_out..((idx + 1) * n).div_ceil(n_out)
}

fn area_row(grid: &[f32], sizes: Sizes, idx: usize, to: &mut [f32]) {
    let n = sizes.n_channels;
    let rows = area_of(idx, sizes.from.h, sizes.to.h);
    for (column, to) in to.chunks_exact_mut(n).enumerate() {
        let columns = area_of(column, sizes.from.w, sizes.to.w);
        to.fill(0.0);
        for row in rows.clone() {
            let line = &grid[(row * sizes.from.w + columns.start) * n..][..columns.len() * n];
            for from in line.chunks_exact(n) {
                to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
            }
        }
        let n_inputs = (rows.len() * columns.len()) as f32;
        to.iter_mut().for_each(|to| *to /= n_inputs);
    }
}

/// Threads of a block, which computes all channels of one place.
const THREADS_MAX: usize = 256;

fn run_cuda(
    cuda: &Cuda,
    method: Method,
    (x, sizes): (&Tensor, Sizes),
    y: &mut Tensor,
) -> Result<()> {
    if !matches!(x.dtype(), DType::F32 | DType::Bf16 | DType::F16) {
        return Err(misuse("resample", "the elements are no floats"));
    }
    let name = match method {
        Method::Bilinear => "bilinear",
        Method::Area => "area",
    };
    let Sizes { from, to, n_channels, n_grids } = sizes;
    let fields = [from.h, from.w, n_channels, to.h, to.w].map(|size| size as u32);
    let threads = n_channels.next_multiple_of(32).clamp(32, THREADS_MAX) as u32;
    let blocks = [(to.h * to.w) as u32, n_grids as u32, 1];
    let grid = Grid { blocks, threads, shared_bytes: 0 };
    let args = [Arg::tensor(x), Arg::mut_tensor(y), Arg::Bytes(bytemuck::bytes_of(&fields))];
    cuda.launch("resample", &format!("{name}_{}", x.dtype().name()), grid, &args)
}

#[cfg(test)]
#[path = "resample_tests.rs"]
mod tests;
