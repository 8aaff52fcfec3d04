//! Products with weights: `y = x Wᵀ + b`, with an activation or onto a residual.
//!
//! Contract. `x` `[rows, k]` in the device's compute type; the weight is `[n, k]`, see
//! [`super::weight`]; sums, the bias and what is done with them are f32. Result in the compute type
//! `[rows, n]` (`[rows, n/2]` for [`Activation::SwiGlu`]), or f32 where it says so.
//! On the processor, sums are strictly in order of k. On a GPU, the bits of a row depend on the
//! rows beside it only where there are more than 64 of them, unless the device is
//! deterministic.

use super::tile::{Panels, Rows, Sink, product};
use super::weight::{Arrangement, Weight};
use super::{linear_cuda, misuse};
use crate::device::Device;
use crate::dtype::DType;
use crate::simd::{Isa, Kernel, LANES, Lanes, Loadable, launch, math};
use crate::tensor::Tensor;
use crate::threads::Threads;
use half::{bf16, f16};
use types::Result;

/// What happens to a product before it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    None,
    /// `x σ(1.702 x)`.
    QuickGelu,
    /// `x/2 (1 + erf(x/√2))`.
    Gelu,
    /// The usual approximation of `Gelu` by a hyperbolic tangent:
    /// `x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))`.
    GeluTanh,
    /// `x σ(x)`.
    Silu,
    /// `max(x, 0)`.
    Relu,
    /// `gate σ(gate) · up`, of an alternating weight.
    SwiGlu,
}

/// `activation(x Wᵀ + b)` as a new tensor.
///
/// Errors: shapes that do not fit; the device has no memory left, or fails.
pub fn linear(device: &Device, x: &Tensor, w: &Weight, activation: Activation) -> Result<Tensor> {
    product_of(device, (x, w), Finish::Write(activation), device.compute_dtype())
}

/// `x Wᵀ + b` as f32, whatever the device computes in (logits, rows that travel).
///
/// Errors: as [`linear`].
pub fn linear_f32(device: &Device, x: &Tensor, w: &Weight) -> Result<Tensor> {
    product_of(device, (x, w), Finish::Write(Activation::None), DType::F32)
}

fn product_of(
    device: &Device,
    (x, w): (&Tensor, &Weight),
    finish: Finish,
    dtype: DType,
) -> Result<Tensor> {
    let gated = finish == Finish::Write(Activation::SwiGlu);
    let fits = x.row_len() == w.k && x.dtype() == device.compute_dtype();
    if !fits || gated != (w.arrangement == Arrangement::Alternating) {
        return Err(misuse("linear", "the weight does not fit the input or the activation"));
    }
    let n_columns = if gated { w.n / 2 } else { w.n };
    let mut y = Tensor::scratch_on(device, dtype, &[x.n_rows(), n_columns])?;
    match device {
        Device::Cpu(threads) => run_cpu(threads, Isa::best(), x, w, (&mut y, finish)),
        Device::Cuda(_) => linear_cuda::run(device, (x, w), &mut y, finish)?,
    }
    Ok(y)
}

/// `y += x Wᵀ + b`; `y` is f32.
///
/// Errors: as [`linear`].
pub fn linear_add(device: &Device, x: &Tensor, w: &Weight, y: &mut Tensor) -> Result<()> {
    let shapes_fit = x.row_len() == w.k && y.row_len() == w.n && y.n_rows() == x.n_rows();
    let types_fit = x.dtype() == device.compute_dtype() && y.dtype() == DType::F32;
    if !shapes_fit || !types_fit || w.arrangement != Arrangement::Stacked {
        return Err(misuse("linear_add", "the weight does not fit the input or the residual"));
    }
    match device {
        Device::Cpu(threads) => run_cpu(threads, Isa::best(), x, w, (y, Finish::Add)),
        Device::Cuda(_) => linear_cuda::run(device, (x, w), y, Finish::Add)?,
    }
    Ok(())
}

/// What is done with the sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finish {
    /// Written, in the type of the result.
    Write(Activation),
    /// Added to what is there, f32.
    Add,
}

impl Finish {
    /// Whether columns come in pairs.
    pub(super) fn is_gated(self) -> bool {
        self == Self::Write(Activation::SwiGlu)
    }
}

// The same as parameters of types; one stands for all that no model here is in a hurry for.
const WRITE: u8 = 0;
const ADD: u8 = 1;
const QUICK_GELU: u8 = 2;
const GELU: u8 = 3;
const SWI_GLU: u8 = 4;
const OTHER: u8 = 5;

/// Rows of one task; few enough that a task is short, many enough to pay for widened panels.
const TASK_ROWS: usize = 128;
/// From this many rows on, panels of 16-bit weights are widened to f32 once per task.
const WIDEN_ROWS: usize = 16;
/// Work below this runs on the caller: a helper needs some 5 µs to wake.
const LONE_TASK_US: f64 = 15.0;
/// What one thread does in a microsecond, for that estimate.
const FLOP_PER_US: f64 = 80_000.0;
const BYTES_PER_US: f64 = 30_000.0;

fn run_cpu(
    threads: &Threads,
    isa: Isa,
    x: &Tensor,
    w: &Weight,
    (y, finish): (&mut Tensor, Finish),
) {
    let n_rows = x.n_rows();
    if n_rows == 0 {
        return;
    }
    let part = Part {
        x: Rows { data: x.as_f32().as_ptr(), stride: w.k },
        depth: w.k,
        bias: w.host().bias.as_f32().as_ptr(),
        y: y.as_mut_slice::<f32>().as_mut_ptr(),
        n_columns: y.row_len(),
        finish,
    };
    let cut = Cut::of(threads, n_rows, w, finish);
    threads.for_each(cut.n_tasks(), &|task| {
        let (rows, panels) = cut.task(task);
        // SAFETY: the tasks' rows and panels lie inside x, the weight and y, and do not overlap in
        // y.
        unsafe {
            match w.dtype() {
                DType::F32 => part.launch_finish::<f32>(isa, w, rows, panels),
                DType::Bf16 => part.launch_finish::<bf16>(isa, w, rows, panels),
                DType::F16 => part.launch_finish::<f16>(isa, w, rows, panels),
                DType::U8 | DType::U32 => unreachable!("weights are never whole numbers"),
            }
        }
    });
}

/// How a product is cut into tasks: rectangles of rows and panels.
struct Cut {
    n_rows: usize,
    n_panels: usize,
    task_rows: usize,
    /// Panels that stay together.
    unit: usize,
    /// Tasks side by side; their panels differ by one unit at most.
    n_panel_parts: usize,
}

impl Cut {
    fn of(threads: &Threads, n_rows: usize, w: &Weight, finish: Finish) -> Self {
        let n_panels = w.n_panels();
        let elements = (n_panels * LANES * w.k) as f64;
        let time_us = (elements * 2.0 * n_rows as f64 / FLOP_PER_US)
            .max(elements * w.dtype().n_bytes() as f64 / BYTES_PER_US);
        // A gate and its partner stay together.
        let unit = if finish.is_gated() { 2 } else { 1 };
        if threads.n_threads() == 1 || time_us < LONE_TASK_US {
            return Self { n_rows, n_panels, task_rows: n_rows, unit, n_panel_parts: 1 };
        }
        // A tile's panels, or pairs of them, and as many tasks for each thread; few rows are read
        // faster than products are made, and take longer tasks.
        let units_max = if n_rows < 8 { 16 / unit } else { 3 };
        let n_units = n_panels.div_ceil(unit);
        let n_panel_parts = n_units.div_ceil(units_max).next_multiple_of(threads.n_threads());
        let n_panel_parts = n_panel_parts.min(n_units);
        Self { n_rows, n_panels, task_rows: TASK_ROWS, unit, n_panel_parts }
    }

    fn n_tasks(&self) -> usize {
        self.n_rows.div_ceil(self.task_rows) * self.n_panel_parts
    }

    /// First and number of rows, first and number of panels. Neighbouring tasks share panels.
    fn task(&self, idx: usize) -> ((usize, usize), (usize, usize)) {
        let n_row_parts = self.n_rows.div_ceil(self.task_rows);
        let row = idx % n_row_parts * self.task_rows;
        let rows = (row, self.task_rows.min(self.n_rows - row));
        let n_units = self.n_panels.div_ceil(self.unit);
        let border =
            |part: usize| (part * n_units / self.n_panel_parts * self.unit).min(self.n_panels);
        let part = idx / n_row_parts;
        (rows, (border(part), border(part + 1) - border(part)))
    }
}

/// One task's share of a product.
#[derive(Clone, Copy)]
struct Part {
    x: Rows,
    depth: usize,
    bias: *const f32,
    y: *mut f32,
    n_columns: usize,
    finish: Finish,
}

// SAFETY: the pointers are into tensors that outlive the operation; tasks write disjoint parts of
// y.
unsafe impl Sync for Part {}
// SAFETY: as above.
unsafe impl Send for Part {}

impl Part {
    /// [`Part::launch`] for the finish asked for, known to the compiler: a choice for every sixteen
    /// sums took a fifth of the time of a product with 256 inputs.
    ///
    /// # Safety
    /// As there.
    unsafe fn launch_finish<W: Loadable>(
        self,
        isa: Isa,
        w: &Weight,
        rows: (usize, usize),
        panels: (usize, usize),
    ) {
        // SAFETY: passed on to the caller.
        unsafe {
            let activation = match self.finish {
                Finish::Add => return self.launch::<W, ADD>(isa, w, rows, panels),
                Finish::Write(activation) => activation,
            };
            match activation {
                Activation::None => self.launch::<W, WRITE>(isa, w, rows, panels),
                Activation::QuickGelu => self.launch::<W, QUICK_GELU>(isa, w, rows, panels),
                Activation::Gelu => self.launch::<W, GELU>(isa, w, rows, panels),
                Activation::SwiGlu => self.launch::<W, SWI_GLU>(isa, w, rows, panels),
                Activation::GeluTanh | Activation::Silu | Activation::Relu => {
                    self.launch::<W, OTHER>(isa, w, rows, panels);
                }
            }
        }
    }

    /// # Safety
    /// Rows and panels lie inside the operands; no other task has the same.
    unsafe fn launch<W: Loadable, const FINISH: u8>(
        self,
        isa: Isa,
        w: &Weight,
        (row, n_rows): (usize, usize),
        (panel, n_panels): (usize, usize),
    ) {
        let size = self.depth * LANES;
        let panels = &w.host().panels.as_slice::<W>()[panel * size..(panel + n_panels) * size];
        // SAFETY: passed on to the caller.
        unsafe {
            let x = self.x.from(row);
            let y = Output::<FINISH> {
                y: self.y.add(row * self.n_columns),
                bias: self.bias,
                n_columns: self.n_columns,
                first_panel: panel,
                finish: self.finish,
                gates: [[0.0; LANES]; 8],
            };
            launch(isa, Product { x, n_rows, panels, depth: self.depth, y });
        }
    }
}

/// The product of some rows and some panels.
struct Product<'a, W, const FINISH: u8> {
    x: Rows,
    n_rows: usize,
    panels: &'a [W],
    depth: usize,
    y: Output<FINISH>,
}

impl<W: Loadable, const FINISH: u8> Kernel for Product<'_, W, FINISH> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(mut self) {
        let size = self.depth * LANES;
        let all = self.panels.len() / size;
        let widen = W::DTYPE != DType::F32 && self.n_rows >= WIDEN_ROWS;
        // SAFETY: passed on to the caller; `group` covers the panels widened into it.
        unsafe {
            if !widen {
                let panels = Panels { data: self.panels.as_ptr(), panel: size, step: LANES };
                let rows = (self.x, self.n_rows);
                return product::<L, W>(rows, (panels, all), self.depth, &mut self.y);
            }
            // A gate waits for its partner within the rows of a tile only: both in one group.
            let group_panels = L::TILE_PANELS * if FINISH == SWI_GLU { 2 } else { 1 };
            let mut group = Tensor::scratch::<f32>(&[group_panels.min(all) * size]);
            let first_panel = self.y.first_panel;
            for (idx, panels) in self.panels.chunks(group_panels * size).enumerate() {
                let wide = &mut group.as_mut_slice::<f32>()[..panels.len()];
                widen_all::<L, W>(panels, wide);
                self.y.first_panel = first_panel + idx * group_panels;
                let group = Panels { data: wide.as_ptr(), panel: size, step: LANES };
                let group = (group, panels.len() / size);
                product::<L, f32>((self.x, self.n_rows), group, self.depth, &mut self.y);
            }
        }
    }
}

/// # Safety
/// As [`Lanes`]; both have the same length, a multiple of sixteen.
#[inline(always)]
unsafe fn widen_all<L: Lanes, W: Loadable>(from: &[W], to: &mut [f32]) {
    for (from, to) in from.chunks_exact(LANES).zip(to.chunks_exact_mut(LANES)) {
        // SAFETY: chunks of sixteen.
        unsafe { W::load::<L>(from.as_ptr()).store(to.as_mut_ptr()) };
    }
}

/// Where sums go.
struct Output<const FINISH: u8> {
    y: *mut f32,
    bias: *const f32,
    n_columns: usize,
    /// Panel of the weight that the product calls 0.
    first_panel: usize,
    /// Says which of the others, where it is [`OTHER`].
    finish: Finish,
    /// Gates of the tile's rows that wait for their partner panel.
    gates: [[f32; LANES]; 8],
}

impl<const FINISH: u8> Sink for Output<FINISH> {
    #[inline(always)]
    unsafe fn put<L: Lanes>(&mut self, row: usize, panel: usize, sums: L) {
        let panel = self.first_panel + panel;
        // SAFETY: row and panel lie inside y; a gate's partner panel follows it in the same row.
        unsafe {
            let sums = sums.add(L::load(self.bias.add(panel * LANES)));
            match FINISH {
                ADD => self.write(row, panel, sums.add(self.read(row, panel))),
                QUICK_GELU => self.write(row, panel, math::sigmoid_gate(sums, 1.702)),
                GELU => self.write(row, panel, math::gelu(sums)),
                SWI_GLU if panel.is_multiple_of(2) => {
                    let gate = math::sigmoid_gate(sums, 1.0);
                    gate.store(self.gates[row % 8].as_mut_ptr());
                }
                SWI_GLU => {
                    let gate = L::load(self.gates[row % 8].as_ptr());
                    self.write(row, panel / 2, gate.mul(sums));
                }
                OTHER => self.write(row, panel, other(self.finish, sums)),
                _ => self.write(row, panel, sums),
            }
        }
    }
}

/// # Safety
/// As [`Lanes`].
#[inline(always)]
unsafe fn other<L: Lanes>(finish: Finish, sums: L) -> L {
    // SAFETY: passed on to the caller.
    unsafe {
        match finish {
            Finish::Write(Activation::GeluTanh) => math::gelu_tanh(sums),
            Finish::Write(Activation::Silu) => math::sigmoid_gate(sums, 1.0),
            Finish::Write(Activation::Relu) => sums.max(L::splat(0.0)),
            _ => sums,
        }
    }
}

impl<const FINISH: u8> Output<FINISH> {
    #[inline(always)]
    unsafe fn read<L: Lanes>(&self, row: usize, panel: usize) -> L {
        let left = self.n_columns - panel * LANES;
        // SAFETY: the panel's columns that exist lie inside y.
        unsafe {
            let from = self.y.add(row * self.n_columns + panel * LANES);
            if left >= LANES { L::load(from) } else { L::load_first(from, left) }
        }
    }

    #[inline(always)]
    unsafe fn write<L: Lanes>(&self, row: usize, panel: usize, values: L) {
        let left = self.n_columns - panel * LANES;
        // SAFETY: the panel's columns that exist lie inside y.
        unsafe {
            let to = self.y.add(row * self.n_columns + panel * LANES);
            if left >= LANES { values.store(to) } else { values.store_first(to, left) }
        }
    }
}

#[cfg(test)]
#[path = "linear_tests.rs"]
mod tests;
