//! Rotary position embedding: the angles of positions, and the rotation of heads by them.
//!
//! Contract. `x` `[rows, width]` in the compute type, heads of `2h` columns side by side; `angles`
//! holds cosines and sines f32 `[rows, h]`. In every head given, for `i < h`, a pair of elements
//! `a, b` becomes `a cos - b sin, b cos + a sin`, in place. The pair is `x[i], x[i+h]` ("rotate
//! half"), or `x[2i], x[2i+1]` where neighbours turn together.

use super::misuse;
use crate::cuda::{Arg, Cuda, Grid};
use crate::device::Device;
use crate::dtype::DType;
use crate::simd::{Isa, Kernel, LANES, Lanes, launch};
use crate::tensor::Tensor;
use crate::threads::Threads;
use std::ops::Range;
use types::Result;

/// Cosine and sine of every row and frequency.
#[derive(Debug)]
pub struct Angles {
    /// f32 `[rows, h]`.
    pub cos: Tensor,
    /// f32 `[rows, h]`.
    pub sin: Tensor,
}

impl Angles {
    /// Angles where frequency `i` turns with the position on axis `axes[i]`; the product of both
    /// is rounded to f32.
    ///
    /// `positions` is u32 `[rows, 3]`, `frequencies` f32 `[h]`, `axes` u32 `[h]`, each below 3.
    /// Errors: shapes that do not fit.
    pub fn on_axes(
        device: &Device,
        positions: &Tensor,
        frequencies: &Tensor,
        axes: &Tensor,
    ) -> Result<Self> {
        let dtypes = [positions.dtype(), frequencies.dtype(), axes.dtype()];
        let shapes_fit = positions.row_len() == 3 && axes.n_elements() == frequencies.n_elements();
        if !shapes_fit || dtypes != [DType::U32, DType::F32, DType::U32] {
            return Err(misuse("angles", "positions, frequencies and axes do not fit"));
        }
        match device {
            Device::Cpu(_) => Ok(angles_cpu(positions, frequencies, axes)),
            Device::Cuda(cuda) => angles_cuda(device, cuda, (positions, frequencies, axes)),
        }
    }
}

fn angles_cpu(positions: &Tensor, frequencies: &Tensor, axes: &Tensor) -> Angles {
    let shape = [positions.n_rows(), frequencies.n_elements()];
    let (mut cos, mut sin) = (Tensor::scratch::<f32>(&shape), Tensor::scratch::<f32>(&shape));
    let turned = positions.as_slice::<u32>().chunks_exact(3).flat_map(|position| {
        let frequencies = frequencies.as_f32().iter().zip(axes.as_slice::<u32>());
        frequencies.map(|(frequency, &axis)| position[axis as usize] as f32 * frequency)
    });
    let places = cos.as_mut_slice::<f32>().iter_mut().zip(sin.as_mut_slice::<f32>());
    for ((cos, sin), angle) in places.zip(turned) {
        (*sin, *cos) = angle.sin_cos();
    }
    Angles { cos, sin }
}

/// Which two elements of a head turn together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// One of either half.
    Halves,
    /// Neighbours.
    Pairs,
}

/// Rotates the heads of `heads` in every row, an element of the first half with one of the second.
///
/// Errors: shapes that do not fit.
pub fn rotary(device: &Device, x: &mut Tensor, angles: &Angles, heads: Range<usize>) -> Result<()> {
    run(device, Form::Halves, x, angles, heads)
}

/// Rotates the heads of `heads` in every row, an element with its neighbour.
///
/// Errors: shapes that do not fit.
pub fn rotary_pairs(
    device: &Device,
    x: &mut Tensor,
    angles: &Angles,
    heads: Range<usize>,
) -> Result<()> {
    run(device, Form::Pairs, x, angles, heads)
}

fn run(
    device: &Device,
    form: Form,
    x: &mut Tensor,
    angles: &Angles,
    heads: Range<usize>,
) -> Result<()> {
    let half = angles.cos.row_len();
    let rows_fit = angles.cos.n_rows() == x.n_rows() && angles.cos.shape() == angles.sin.shape();
    let dtype_fits = x.dtype() == device.compute_dtype();
    if !rows_fit || !dtype_fits || half == 0 || heads.end * 2 * half > x.row_len() {
        return Err(misuse("rotary", "the angles do not fit the input"));
    }
    match device {
        Device::Cpu(threads) => run_cpu((threads, Isa::best()), form, x, (angles, heads)),
        Device::Cuda(cuda) => run_cuda(cuda, form, x, (angles, heads))?,
    }
    Ok(())
}

/// Elements of one task: some 10 µs of work.
const TASK_ELEMENTS: usize = 64 * 1024;

fn run_cpu(
    (threads, isa): (&Threads, Isa),
    form: Form,
    x: &mut Tensor,
    (angles, heads): (&Angles, Range<usize>),
) {
    let (width, half) = (x.row_len(), angles.cos.row_len());
    let task_rows = (TASK_ELEMENTS / width).max(1);
    let (cos, sin) = (angles.cos.as_f32(), angles.sin.as_f32());
    threads.for_each_chunk(x.as_mut_slice::<f32>(), task_rows * width, &|task, x| {
        let start = task * task_rows * half;
        let (cos, sin) = (&cos[start..], &sin[start..]);
        let heads = heads.clone();
        // SAFETY: the angles cover the rows, the heads lie inside each.
        unsafe { launch(isa, Rotate { form, x, cos, sin, width, half, heads }) };
    });
}

struct Rotate<'a> {
    form: Form,
    x: &'a mut [f32],
    cos: &'a [f32],
    sin: &'a [f32],
    width: usize,
    half: usize,
    heads: Range<usize>,
}

impl Kernel for Rotate<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        for (row, x) in self.x.chunks_exact_mut(self.width).enumerate() {
            let cos = &self.cos[row * self.half..(row + 1) * self.half];
            let sin = &self.sin[row * self.half..(row + 1) * self.half];
            for head in
                x.chunks_exact_mut(2 * self.half).take(self.heads.end).skip(self.heads.start)
            {
                match self.form {
                    // SAFETY: a head has twice as many elements as there are angles.
                    Form::Halves => unsafe { rotate_head::<L>(head, cos, sin) },
                    Form::Pairs => rotate_pairs(head, cos, sin),
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn rotate_head<L: Lanes>(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let half = cos.len();
    let (low, high) = head.split_at_mut(half);
    let whole = half / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        // SAFETY: sixteen elements from `start` on exist in all four.
        unsafe {
            let (cos, sin) = (L::load(cos[start..].as_ptr()), L::load(sin[start..].as_ptr()));
            let (a, b) = (L::load(low[start..].as_ptr()), L::load(high[start..].as_ptr()));
            a.mul(cos).sub(b.mul(sin)).store(low[start..].as_mut_ptr());
            b.mul(cos).add(a.mul(sin)).store(high[start..].as_mut_ptr());
        }
    }
    for i in whole..half {
        let (a, b) = (low[i], high[i]);
        low[i] = a * cos[i] - b * sin[i];
        high[i] = b * cos[i] + a * sin[i];
    }
}

#[inline(always)]
fn rotate_pairs(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    for (pair, (cos, sin)) in head.chunks_exact_mut(2).zip(cos.iter().zip(sin)) {
        let (a, b) = (pair[0], pair[1]);
        pair[0] = a * cos - b * sin;
        pair[1] = b * cos + a * sin;
    }
}

/// Threads of a block that computes angles.
const ANGLE_THREADS: u32 = 128;

fn angles_cuda(
    device: &Device,
    cuda: &Cuda,
    (positions, frequencies, axes): (&Tensor, &Tensor, &Tensor),
) -> Result<Angles> {
    let (n_rows, half) = (positions.n_rows(), frequencies.n_elements());
    let scratch = || Tensor::scratch_on(device, DType::F32, &[n_rows, half]);
    let (mut cos, mut sin) = (scratch()?, scratch()?);
    let grid = Grid::line((n_rows * half).div_ceil(ANGLE_THREADS as usize), ANGLE_THREADS);
    let [positions, frequencies, axes] = [positions, frequencies, axes].map(Arg::tensor);
    let (to_cos, to_sin) = (Arg::mut_tensor(&mut cos), Arg::mut_tensor(&mut sin));
    let [n_rows, half] = [n_rows, half].map(|size| Arg::I32(size as i32));
    let args = [positions, frequencies, axes, to_cos, to_sin, n_rows, half];
    cuda.launch("rotary", "angles_on_axes", grid, &args)?;
    Ok(Angles { cos, sin })
}

/// Most threads of a block, which rotates the heads of one row, and pairs of a thread.
const ROW_THREADS_MAX: usize = 256;
const PAIRS_OF_THREAD: usize = 4;

fn run_cuda(
    cuda: &Cuda,
    form: Form,
    x: &mut Tensor,
    (angles, heads): (&Angles, Range<usize>),
) -> Result<()> {
    let half = angles.cos.row_len();
    let n_threads = (heads.len() * half).div_ceil(PAIRS_OF_THREAD).next_multiple_of(32);
    let grid = Grid::line(x.n_rows(), n_threads.clamp(32, ROW_THREADS_MAX) as u32);
    let name = match form {
        Form::Halves => "rotary",
        Form::Pairs => "rotary_pairs",
    };
    let name = format!("{name}_{}", x.dtype().name());
    let sizes = [x.row_len(), half, heads.start, heads.len()];
    let mut args = vec![Arg::mut_tensor(x), Arg::tensor(&angles.cos), Arg::tensor(&angles.sin)];
    args.extend(sizes.map(|size| Arg::I32(size as i32)));
    cuda.launch("rotary", &name, grid, &args)
}

#[cfg(test)]
#[path = "rotary_tests.rs"]
mod tests;
