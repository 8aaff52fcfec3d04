//! How the product of few rows is spread over a GPU. Where k is cut, which decides on a row's bits,
//! follows from the weight and the GPU alone; nothing else here changes a bit.

use super::linear::{Activation, Finish};
use super::linear_cuda::{SKINNY_ROWS_MAX, number};
use super::weight::Weight;
use crate::cuda::{Arg, Cuda, Grid, TensorMap, Workspace};
use crate::dtype::DType;
use crate::tensor::Tensor;
use bytemuck::{Pod, Zeroable};
use types::Result;

/// Elements of k in a step of either kernel, and bytes of a step of one row.
const STEP: usize = 64;
const ROW_BYTES: usize = STEP * 2;
/// Fewest steps of a slice.
const SLICE_STEPS_MIN: usize = 6;
/// Numbers of rows that kernels exist for.
const WIDTHS: [usize; 4] = [8, 16, 32, SKINNY_ROWS_MAX];

/// Which kernel: each divides outputs and memory in its own way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kernel {
    /// skinny.cu, on any GPU: a warp has 32 outputs, the ring four steps.
    Warps,
    /// skinny_hopper.cu: four warps have 64 outputs, the ring as many steps as fit.
    Hopper,
}

impl Kernel {
    fn of(compute_capability: (i32, i32)) -> Self {
        if compute_capability == (9, 0) { Self::Hopper } else { Self::Warps }
    }

    /// Outputs of a team, the smallest number that a block can have.
    fn team_outputs(self) -> usize {
        match self {
            Self::Warps => 32,
            Self::Hopper => 64,
        }
    }

    /// Most slices of k; Hopper's are a cluster, which has at most eight blocks on any GPU.
    pub(super) fn slices_max(self) -> usize {
        match self {
            Self::Warps => 12,
            Self::Hopper => 8,
        }
    }

    fn costs(self) -> Costs {
        match self {
            Self::Warps => Costs { alone: 1.5, x_step: 0.1, round: 4.0, meeting: 1.2, slice: 1.2 },
            Self::Hopper => Costs { alone: 1.2, x_step: 0.2, round: 1.0, meeting: 3.6, slice: 0.6 },
        }
    }

    /// How many teams a block may have.
    pub(super) fn team_counts(self) -> std::ops::RangeInclusive<usize> {
        match self {
            Self::Warps => 3..=9,
            Self::Hopper => 1..=3,
        }
    }
}

/// What takes time, in units of what a multiprocessor's share of the memory's speed needs for one
/// step of 64 outputs. The numbers are fitted to measurements on an H200.
struct Costs {
    /// How much faster than its share a multiprocessor is while others have nothing to do.
    alone: f64,
    /// What a step of x costs.
    x_step: f64,
    /// What a round of blocks costs beside its steps.
    round: f64,
    /// What adding up slices of 64 outputs costs, in all and for each.
    meeting: f64,
    slice: f64,
}

/// Blocks, and their teams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) kernel: Kernel,
    /// Teams of a block.
    pub(super) n_teams: usize,
    /// Blocks that share outputs, each with its slice of k.
    pub(super) n_slices: usize,
}

/// What a plan is made for: nothing of it depends on the rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Problem {
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) kernel: Kernel,
    pub(super) n_multiprocessors: usize,
    /// Most shared memory of a block, and, but for a kilobyte of each block, of a multiprocessor.
    pub(super) shared_bytes_max: usize,
}

impl Problem {
    pub(super) fn of(cuda: &Cuda, (n, k): (usize, usize)) -> Self {
        let context = cuda.context();
        Self {
            n,
            k,
            kernel: Kernel::of(context.compute_capability()),
            n_multiprocessors: context.n_multiprocessors(),
            shared_bytes_max: context.shared_bytes_max(),
        }
    }

    /// The plan that should take the least time.
    pub(super) fn plan(&self) -> Plan {
        let counts = self.kernel.team_counts();
        let mut best = Plan { kernel: self.kernel, n_teams: *counts.start(), n_slices: 1 };
        let mut least = f64::INFINITY;
        let most_slices = self.kernel.slices_max().min((self.n_steps() / SLICE_STEPS_MIN).max(1));
        for n_teams in counts {
            for n_slices in 1..=most_slices {
                let plan = Plan { kernel: self.kernel, n_teams, n_slices };
                if self.is_possible(plan) && self.cost(plan) < least {
                    (best, least) = (plan, self.cost(plan));
                }
            }
        }
        best
    }

    fn n_steps(&self) -> usize {
        self.k.div_ceil(STEP)
    }

    /// Blocks side by side, without slices.
    fn n_tiles(&self, plan: Plan) -> usize {
        self.n.div_ceil(plan.n_teams * plan.kernel.team_outputs())
    }

    /// Blocks of a multiprocessor, whatever the number of rows; a block for itself has a longer
    /// ring, so two share one only where there are more blocks than multiprocessors.
    fn blocks_at_once(&self, plan: Plan) -> usize {
        let most = match plan.kernel {
            Kernel::Hopper => 2,
            Kernel::Warps => (self.shared_bytes_max / self.warps_bytes(plan)).clamp(1, 2),
        };
        if self.n_tiles(plan) * plan.n_slices <= self.n_multiprocessors { 1 } else { most }
    }

    fn warps_bytes(&self, plan: Plan) -> usize {
        Ring::of_warps(plan.n_teams, SKINNY_ROWS_MAX).shared_bytes()
    }

    /// Whether shared memory and, where sums go through it, the workspace suffice, whatever the
    /// number of rows.
    fn is_possible(&self, plan: Plan) -> bool {
        if plan.kernel == Kernel::Hopper {
            return true;
        }
        let outputs = self.n_tiles(plan) * plan.n_teams * plan.kernel.team_outputs();
        let sum_bytes = outputs * plan.n_slices * SKINNY_ROWS_MAX * size_of::<f32>();
        let sums_fit =
            sum_bytes <= Workspace::N_BYTES && self.n_tiles(plan) <= Workspace::N_COUNTERS;
        self.warps_bytes(plan) <= self.shared_bytes_max && (plan.n_slices == 1 || sums_fit)
    }

    /// Time, in the units of [`Costs`].
    fn cost(&self, plan: Plan) -> f64 {
        let costs = plan.kernel.costs();
        let n_steps = self.n_steps().div_ceil(plan.n_slices) as f64;
        let teams = (plan.n_teams * plan.kernel.team_outputs()) as f64 / 64.0;
        let block = n_steps * (teams + costs.x_step);
        let n_blocks = self.n_tiles(plan) * plan.n_slices;
        let n_places = self.n_multiprocessors * self.blocks_at_once(plan);
        let share = |n_blocks: usize| n_blocks as f64 * block / self.n_multiprocessors as f64;
        let rest = n_blocks % n_places;
        // What does not fill all places ends with the multiprocessor that has the most of it.
        let most = rest.div_ceil(self.n_multiprocessors) as f64;
        let last = share(rest).max(most * block / costs.alone);
        let n_slices = plan.n_slices as f64;
        let sums = if plan.n_slices == 1 { 0.0 } else { costs.meeting + costs.slice * n_slices };
        let n_rounds = n_blocks.div_ceil(n_places) as f64;
        share(n_blocks - rest) + last + costs.round * n_rounds + teams * sums
    }
}

/// A block's steps in shared memory.
#[derive(Debug, Clone, Copy)]
struct Ring {
    n_stages: usize,
    stage_bytes: usize,
    /// Barriers, and what aligning the first stage may take.
    head_bytes: usize,
}

impl Ring {
    fn of_warps(n_teams: usize, width: usize) -> Self {
        let stage_bytes = (n_teams * Kernel::Warps.team_outputs() + width) * ROW_BYTES;
        Self { n_stages: 4, stage_bytes, head_bytes: 0 }
    }

    fn of_hopper(n_teams: usize, width: usize, block_bytes: usize) -> Self {
        /// As in skinny_hopper.cu: most stages, barriers and alignment.
        const STAGES_MAX: usize = 16;
        const HEAD_BYTES: usize = 1536;
        let stage_bytes = (n_teams * Kernel::Hopper.team_outputs() + width) * ROW_BYTES;
        let n_stages = (block_bytes - HEAD_BYTES) / stage_bytes;
        Self { n_stages: n_stages.clamp(1, STAGES_MAX), stage_bytes, head_bytes: HEAD_BYTES }
    }

    fn shared_bytes(&self) -> usize {
        self.n_stages * self.stage_bytes + self.head_bytes
    }
}

/// As `Product` in common/skinny.cuh.
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
    run_with(operands.1.gpu().plan, cuda, operands, y, finish)
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
    let problem = Problem::of(cuda, (w.n(), w.k()));
    match plan.kernel {
        Kernel::Warps => launch_warps(cuda, &problem, plan, &product, w.dtype()),
        Kernel::Hopper => launch_hopper(cuda, &problem, plan, &product, w.dtype()),
    }
}

/// The rows of the kernel that takes `n_rows`.
fn width(n_rows: i32) -> usize {
    let fits = |width: &&usize| n_rows as usize <= **width;
    *WIDTHS.iter().find(fits).unwrap_or(&SKINNY_ROWS_MAX)
}

fn launch_warps(
    cuda: &Cuda,
    problem: &Problem,
    plan: Plan,
    product: &Product,
    dtype: DType,
) -> Result<()> {
    let width = width(product.n_rows);
    let grid = Grid {
        blocks: [problem.n_tiles(plan) as u32, plan.n_slices as u32, 1],
        threads: plan.n_teams as u32 * 32,
        shared_bytes: Ring::of_warps(plan.n_teams, width).shared_bytes() as u32,
    };
    let name = format!("skinny_{}_{width}", dtype.name());
    cuda.launch("skinny", &name, grid, &[Arg::Bytes(bytemuck::bytes_of(product))])
}

fn launch_hopper(
    cuda: &Cuda,
    problem: &Problem,
    plan: Plan,
    product: &Product,
    dtype: DType,
) -> Result<()> {
    /// What the system takes of every block's shared memory, and the kernel's own variables.
    const SYSTEM_BYTES: usize = 1024 + 128;
    let width = width(product.n_rows);
    let at_once = problem.blocks_at_once(plan);
    let block_bytes = (problem.shared_bytes_max + 1024) / at_once - SYSTEM_BYTES;
    let ring = Ring::of_hopper(plan.n_teams, width, block_bytes);
    let grid = Grid {
        blocks: [problem.n_tiles(plan) as u32, plan.n_slices as u32, 1],
        threads: plan.n_teams as u32 * 128 + 32,
        shared_bytes: ring.shared_bytes() as u32,
    };
    let team_outputs = plan.kernel.team_outputs();
    let w = TensorMap::of_halves(product.w, dtype, (problem.n, problem.k), team_outputs)?;
    let x_shape = (product.n_rows as usize, problem.k);
    let x = TensorMap::of_halves(product.x, dtype, x_shape, width)?;
    let args = [
        Arg::Bytes(w.bytes()),
        Arg::Bytes(x.bytes()),
        Arg::Bytes(bytemuck::bytes_of(product)),
        Arg::U32(ring.n_stages as u32),
    ];
    let name = format!("skinny_hopper_{}_{width}", dtype.name());
    cuda.launch_early(("skinny_hopper", &name), grid, plan.n_slices as u32, &args)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plans of the real shapes: blocks fill the GPU, and slices are shared work, not overhead.
    #[test]
    fn plans_fill_the_gpu() {
        let gpus = [(Kernel::Hopper, 132, 227 << 10), (Kernel::Warps, 108, 163 << 10)];
        for (kernel, n_multiprocessors, shared_bytes_max) in gpus {
            let plan = |n, k| Problem { n, k, kernel, n_multiprocessors, shared_bytes_max }.plan();
            for (n, k) in [(4608, 3584), (3584, 3584), (37888, 3584), (3584, 18944)] {
                let Plan { n_teams, n_slices, .. } = plan(n, k);
                let n_blocks = n.div_ceil(n_teams * kernel.team_outputs()) * n_slices;
                assert!(n_blocks * 10 >= n_multiprocessors * 7, "{n} × {k}: {n_blocks} blocks");
            }
            assert_eq!(plan(152_064, 3584).n_slices, 1);
            assert_eq!(plan(64, 64).n_slices, 1);
        }
    }
}
