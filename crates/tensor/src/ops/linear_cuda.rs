//! Products with weights on a GPU: few rows by a kernel that reads weights as fast as memory gives
//! them, many by the library, and whatever neither takes by a plain kernel.

use super::linear::{Activation, Finish};
use super::weight::Weight;
use super::{linear_cuda_skinny, misuse};
use crate::cuda::{Arg, Cuda, Gemm, GemmShape, Grid};
use crate::device::Device;
use crate::dtype::DType;
use crate::tensor::Tensor;
use bytemuck::{Pod, Zeroable};
use types::Result;

/// Up to this many rows are few: a row's bits do not depend on the rows beside it.
pub(super) const SKINNY_ROWS_MAX: usize = 64;
/// Addresses and rows of operands start at multiples of this many bytes, except for the plain way.
const ALIGNMENT: u64 = 16;

/// Which code computes a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Tensor cores, with the weights on the tall side; halves, few rows.
    Skinny,
    /// cuBLASLt.
    Library,
    /// Anything, slowly where there are many rows.
    Plain,
}

impl Way {
    /// Depends on nothing but what is said here, so that a row keeps its bits.
    pub(super) fn of(cuda: &Cuda, x: &Tensor, w: &Weight) -> Self {
        let is_aligned = [x.address(), w.address()].iter().all(|at| at.is_multiple_of(ALIGNMENT));
        let row_bytes = (w.k() * w.dtype().n_bytes()) as u64;
        let few = x.n_rows() <= SKINNY_ROWS_MAX && !cuda.options().deterministic;
        let is_f32 = w.dtype() == DType::F32;
        if w.k() == 0 || !is_aligned || !is_f32 && !row_bytes.is_multiple_of(ALIGNMENT) {
            return Self::Plain;
        }
        match (few, is_f32) {
            (true, true) => Self::Plain,
            (true, false) => Self::Skinny,
            (false, _) => Self::Library,
        }
    }
}

/// `y` becomes what `finish` says of `x Wᵀ + b`; the caller has checked that shapes and types fit.
pub(super) fn run(
    device: &Device,
    (x, w): (&Tensor, &Weight),
    y: &mut Tensor,
    finish: Finish,
) -> Result<()> {
    let Device::Cuda(cuda) = device else {
        return Err(misuse("linear", "not a GPU"));
    };
    run_as(Way::of(cuda, x, w), device, (x, w), y, finish)
}

/// The same in a given way, which must be able to.
pub(super) fn run_as(
    way: Way,
    device: &Device,
    (x, w): (&Tensor, &Weight),
    y: &mut Tensor,
    finish: Finish,
) -> Result<()> {
    let Device::Cuda(cuda) = device else {
        return Err(misuse("linear", "not a GPU"));
    };
    if x.n_rows() == 0 || w.n() == 0 {
        return Ok(());
    }
    match way {
        Way::Skinny => linear_cuda_skinny::run(cuda, (x, w), y, finish),
        Way::Library if library(device, cuda, (x, w), y, finish)? => Ok(()),
        Way::Library | Way::Plain => plain(cuda, (x, w), y, finish),
    }
}

/// The kernels' number of an activation of single columns.
pub(super) fn number(activation: Activation) -> i32 {
    match activation {
        Activation::None | Activation::SwiGlu => 0,
        Activation::QuickGelu => 1,
        Activation::Gelu => 2,
        Activation::GeluTanh => 3,
        Activation::Silu => 4,
        Activation::Relu => 5,
    }
}

/// Threads of a block of the kernels here.
const THREADS: u32 = 256;
/// Elements that a thread of an activation has at once, where the sizes allow it.
const GROUP: usize = 4;

/// The library's product, and the activation behind it; `false` if it has no algorithm.
fn library(
    device: &Device,
    cuda: &Cuda,
    (x, w): (&Tensor, &Weight),
    y: &mut Tensor,
    finish: Finish,
) -> Result<bool> {
    if !finish.is_gated() {
        return Ok(gemm(cuda, (x, w), y, finish == Finish::Add)? && activate(cuda, y, finish)?);
    }
    let mut pairs = Tensor::scratch_on(device, y.dtype(), &[x.n_rows(), w.n()])?;
    if !gemm(cuda, (x, w), &mut pairs, false)? {
        return Ok(false);
    }
    let grid = Grid::line(y.n_elements().div_ceil(THREADS as usize * GROUP), THREADS);
    let sizes = [Arg::U32(y.n_rows() as u32), Arg::U32(y.row_len() as u32)];
    let args = [Arg::tensor(&pairs), Arg::mut_tensor(y), sizes[0], sizes[1]];
    cuda.launch("activation", &format!("gate_{}", pairs.dtype().name()), grid, &args)?;
    Ok(true)
}

fn gemm(cuda: &Cuda, (x, w): (&Tensor, &Weight), y: &mut Tensor, is_added: bool) -> Result<bool> {
    let bias = w.gpu().bias_in(y.dtype()).map(Tensor::address);
    let shape = GemmShape {
        n_rows: x.n_rows(),
        n: w.n(),
        k: w.k(),
        dtype: w.dtype(),
        result_dtype: y.dtype(),
        is_added,
        has_bias: bias.is_some(),
    };
    if !y.address().is_multiple_of(ALIGNMENT) {
        return Ok(false);
    }
    cuda.gemm(&Gemm { x: x.address(), w: w.address(), bias, y: y.address(), shape })
}

/// Applies an activation of single columns in place.
fn activate(cuda: &Cuda, y: &mut Tensor, finish: Finish) -> Result<bool> {
    let activation = match finish {
        Finish::Write(activation) => number(activation),
        Finish::Add => 0,
    };
    if activation != 0 {
        let n_elements = y.n_elements();
        let group = if n_elements.is_multiple_of(GROUP) { GROUP } else { 1 };
        let grid = Grid::line(n_elements.div_ceil(THREADS as usize * group), THREADS);
        let sizes = [Arg::U64(n_elements as u64), Arg::I32(activation), Arg::I32(group as i32)];
        let args = [Arg::mut_tensor(y), sizes[0], sizes[1], sizes[2]];
        cuda.launch("activation", &format!("activate_{}", y.dtype().name()), grid, &args)?;
    }
    Ok(true)
}

/// As `Output` in skinny_plain.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct PlainOutput {
    bias: u64,
    y: u64,
    n_columns: i32,
    activation: i32,
    is_gated: i32,
    is_f32: i32,
    is_add: i32,
    padding: i32,
}

/// Rows of x that a block of the plain kernel takes.
const PLAIN_ROWS: usize = 8;
/// Its warps, each of which has a column.
const PLAIN_COLUMNS: usize = THREADS as usize / 32;

fn plain(cuda: &Cuda, (x, w): (&Tensor, &Weight), y: &mut Tensor, finish: Finish) -> Result<()> {
    let output = PlainOutput {
        bias: w.gpu().bias_in(DType::F32).map_or(0, Tensor::address),
        y: y.address(),
        n_columns: y.row_len() as i32,
        activation: if let Finish::Write(activation) = finish { number(activation) } else { 0 },
        is_gated: i32::from(finish.is_gated()),
        is_f32: i32::from(y.dtype() == DType::F32),
        is_add: i32::from(finish == Finish::Add),
        padding: 0,
    };
    let blocks = [y.row_len().div_ceil(PLAIN_COLUMNS), x.n_rows().div_ceil(PLAIN_ROWS), 1];
    let grid = Grid { blocks: blocks.map(|n| n as u32), threads: THREADS, shared_bytes: 0 };
    let name = format!("plain_{}", w.dtype().name());
    let args = [
        Arg::tensor(x),
        Arg::Address(w.address()),
        Arg::Bytes(bytemuck::bytes_of(&output)),
        Arg::U32(x.n_rows() as u32),
        Arg::U32(w.k() as u32),
    ];
    cuda.launch("skinny_plain", &name, grid, &args)
}

#[cfg(test)]
#[path = "linear_cuda_tests.rs"]
mod tests;
