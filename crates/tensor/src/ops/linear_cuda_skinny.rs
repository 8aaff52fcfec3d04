//! How the product of few rows is spread over a GPU.

use super::linear::{Activation, Finish};
use super::linear_cuda::{SKINNY_ROWS_MAX, number};
use super::weight::Weight;
use crate::cuda::{Arg, Cuda, Grid, Workspace};
use crate::dtype::DType;
use crate::tensor::Tensor;
use bytemuck::{Pod, Zeroable};
use types::Result;

/// As in skinny.cu: outputs of a warp, elements of k in a step, steps in the ring, bytes of a step
/// of one row.
const WARP_OUTPUTS: usize = 32;
const STEP: usize = 64;
const STAGES: usize = 4;
const ROW_BYTES: usize = STEP * 2;
/// Most warps of a block.
const WARPS_MAX: usize = 9;
/// Fewest; blocks of less would spend their time on x.
const WARPS_MIN: usize = 3;
/// Most slices of k.
const SLICES_MAX: usize = 12;
/// Fewest steps of a slice.
const SLICE_STEPS_MIN: usize = 6;
/// Numbers of rows that kernels exist for.
const WIDTHS: [usize; 4] = [8, 16, 32, SKINNY_ROWS_MAX];

/// Blocks, and their warps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    /// Warps of a block; each has 32 outputs.
    pub(super) n_warps: usize,
    /// Blocks that share outputs, each with its slice of k.
    pub(super) n_slices: usize,
}

/// What a plan is made for: nothing of it depends on the rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Problem {
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) n_multiprocessors: usize,
    pub(super) shared_bytes_max: usize,
}

impl Problem {
    /// The plan that should take the least time.
    pub(super) fn plan(&self) -> Plan {
        let n_steps = self.k.div_ceil(STEP);
        let mut best = (f64::INFINITY, Plan { n_warps: WARPS_MIN, n_slices: 1 });
        for n_warps in WARPS_MIN..=WARPS_MAX {
            for n_slices in 1..=SLICES_MAX.min((n_steps / SLICE_STEPS_MIN).max(1)) {
                let plan = Plan { n_warps, n_slices };
                if self.is_possible(plan) && self.cost(plan) < best.0 {
                    best = (self.cost(plan), plan);
                }
            }
        }
        best.1
    }

    /// Whether shared memory and the workspace suffice, whatever the number of rows.
    fn is_possible(&self, plan: Plan) -> bool {
        let n_tiles = self.n.div_ceil(plan.n_warps * WARP_OUTPUTS);
        let outputs = n_tiles * plan.n_slices * plan.n_warps * WARP_OUTPUTS;
        let sums_fit = outputs * SKINNY_ROWS_MAX * size_of::<f32>() <= Workspace::N_BYTES
            && n_tiles <= Workspace::N_COUNTERS;
        shared_bytes(plan.n_warps, SKINNY_ROWS_MAX) <= self.shared_bytes_max
            && (plan.n_slices == 1 || sums_fit)
    }

    /// Time in units of what one multiprocessor's share of the memory's speed needs for a warp's
    /// step. The constants are fitted to measurements on an H200.
    fn cost(&self, plan: Plan) -> f64 {
        /// How much faster than its share a multiprocessor is when others have nothing to do.
        const ALONE: f64 = 2.0;
        /// What a step of x costs, in steps of a warp's weights.
        const X_STEP: f64 = 0.4;
        /// What a block costs beside its steps, and what a slice costs each warp.
        const BLOCK: f64 = 8.0;
        const SLICE: f64 = 0.5;
        let n_steps = self.k.div_ceil(STEP).div_ceil(plan.n_slices) as f64;
        let n_tiles = self.n.div_ceil(plan.n_warps * WARP_OUTPUTS);
        let n_warps = plan.n_warps as f64;
        let sums =
            if plan.n_slices == 1 { 0.0 } else { SLICE * n_warps * (plan.n_slices + 2) as f64 };
        let block = n_steps * (n_warps + X_STEP) + BLOCK;
        let at_once = self.shared_bytes_max / shared_bytes(plan.n_warps, SKINNY_ROWS_MAX);
        let n_places = self.n_multiprocessors * at_once.max(1);
        let n_blocks = n_tiles * plan.n_slices;
        let share = |n_blocks: usize| n_blocks as f64 * block / self.n_multiprocessors as f64;
        let full = share(n_blocks / n_places * n_places);
        let rest = n_blocks % n_places;
        let rest = if rest == 0 { 0.0 } else { share(rest).max(block / ALONE) };
        full + rest + sums
    }
}

/// Shared memory of a block for `width` rows.
fn shared_bytes(n_warps: usize, width: usize) -> usize {
    STAGES * ROW_BYTES * (n_warps * WARP_OUTPUTS + width)
}

/// As `Product` in skinny.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Product {
    x: u64,
    w: u64,
    bias: u64,
    y: u64,
    partial: u64,
    n_finished: u64,
    n_rows: i32,
    n: i32,
    k: i32,
    finish: i32,
    activation: i32,
    padding: i32,
}

/// Computes a product of up to 64 rows; operands are halves, their rows multiples of 16 bytes.
pub(super) fn run(
    cuda: &Cuda,
    operands: (&Tensor, &Weight),
    y: &mut Tensor,
    finish: Finish,
) -> Result<()> {
    let context = cuda.context();
    let problem = Problem {
        n: operands.1.n(),
        k: operands.1.k(),
        n_multiprocessors: context.n_multiprocessors(),
        shared_bytes_max: context.shared_bytes_max(),
    };
    run_with(problem.plan(), cuda, operands, y, finish)
}

/// The same with a given plan.
pub(super) fn run_with(
    plan: Plan,
    cuda: &Cuda,
    (x, w): (&Tensor, &Weight),
    y: &mut Tensor,
    finish: Finish,
) -> Result<()> {
    let workspace = cuda.workspace()?;
    let product = Product {
        x: x.address(),
        w: w.address(),
        bias: w.gpu().bias_in(DType::F32).map_or(0, Tensor::address),
        y: y.address(),
        partial: workspace.address(),
        n_finished: workspace.counters(),
        n_rows: x.n_rows() as i32,
        n: w.n() as i32,
        k: w.k() as i32,
        finish: match finish {
            Finish::Write(Activation::SwiGlu) => 3,
            Finish::Write(_) if y.dtype() != DType::F32 => 0,
            Finish::Write(_) => 1,
            Finish::Add => 2,
        },
        activation: if let Finish::Write(activation) = finish { number(activation) } else { 0 },
        padding: 0,
    };
    let fits = |width: &&usize| x.n_rows() <= **width;
    let width = *WIDTHS.iter().find(fits).unwrap_or(&SKINNY_ROWS_MAX);
    let n_tiles = w.n().div_ceil(plan.n_warps * WARP_OUTPUTS);
    let grid = Grid {
        blocks: [n_tiles as u32, plan.n_slices as u32, 1],
        threads: plan.n_warps as u32 * 32,
        shared_bytes: shared_bytes(plan.n_warps, width) as u32,
    };
    let name = format!("skinny_{}_{width}", w.dtype().name());
    cuda.launch("skinny", &name, grid, &[Arg::Bytes(bytemuck::bytes_of(&product))])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plans of the real shapes: blocks fill an H200, and slices are shared work, not overhead.
    #[test]
    fn plans_fill_the_gpu() {
        let plan = |n, k| {
            let (n_multiprocessors, shared_bytes_max) = (132, 227 << 10);
            Problem { n, k, n_multiprocessors, shared_bytes_max }.plan()
        };
        for (n, k) in [(4608, 3584), (3584, 3584), (37888, 3584), (3584, 18944), (152_064, 3584)] {
            let Plan { n_warps, n_slices } = plan(n, k);
            let n_blocks = n.div_ceil(n_warps * WARP_OUTPUTS) * n_slices;
            assert!(n_blocks >= 72, "{n} × {k}: {n_blocks} blocks");
        }
        assert_eq!(plan(152_064, 3584).n_slices, 1);
        assert_eq!(plan(64, 64).n_slices, 1);
    }
}
