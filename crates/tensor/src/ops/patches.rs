//! Pixels to the tower's patches: rescaled, normalised, and cut in the order of merged windows.
//!
//! Contract. `frames` u8 `[n_frames, 14·h, 14·w, 3]` (14 standing for the patch size), in host
//! memory; result `[t·h·w, 3·T·P·P]` in the compute type, a row per patch, its elements in the
//! order (channel, frame, y, x), the patches in the order (t, window row, window column, row in
//! window, column in window). A picture is one frame, seen `T` times. Values are
//! `(value · rescale - mean) / std`, rounded like the reference's steps.

use super::misuse;
use crate::cuda::{self, Arg, Cuda};
use crate::device::Device;
use crate::dtype::DType;
use crate::tensor::Tensor;
use crate::threads::Threads;
use types::Result;
use types::media::Grid;

/// How pixels become patches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PatchShape {
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Frames of a patch.
    pub temporal_patch_size: usize,
    /// Side of a merged window in patches.
    pub merge_size: usize,
}

/// How bytes become numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normalisation {
    /// Factor of a byte.
    pub rescale: f64,
    /// Subtracted then, per channel.
    pub mean: [f32; 3],
    /// Divided by then, per channel.
    pub std: [f32; 3],
}

/// Cuts the frames of one medium into rows.
///
/// Errors: the frames are not those of `grid`.
pub fn patches(
    device: &Device,
    frames: &[u8],
    grid: Grid,
    shape: PatchShape,
    normalisation: &Normalisation,
) -> Result<Tensor> {
    let (h, w) = (grid.h as usize, grid.w as usize);
    let frame_len = h * w * shape.patch_size * shape.patch_size * 3;
    let n_frames = frames.len().checked_div(frame_len).unwrap_or(0);
    let is_picture = grid.t == 1 && n_frames == 1;
    let is_video = n_frames == grid.t as usize * shape.temporal_patch_size;
    let whole_windows = h.is_multiple_of(shape.merge_size) && w.is_multiple_of(shape.merge_size);
    if n_frames * frame_len != frames.len() || !(is_picture || is_video) || !whole_windows {
        return Err(misuse("patches", "the frames are not those of the grid"));
    }
    let cutter = Cutter { frames, grid, shape, table: value_table(normalisation), n_frames };
    let mut rows = Tensor::scratch_on(device, device.compute_dtype(), &cutter.result_shape())?;
    match device {
        Device::Cpu(threads) => run_cpu(threads, &cutter, &mut rows),
        Device::Cuda(gpu) => run_cuda(device, gpu, &cutter, &mut rows)?,
    }
    Ok(rows)
}

fn run_cpu(threads: &Threads, cutter: &Cutter<'_>, rows: &mut Tensor) {
    let row_len = rows.row_len();
    threads.for_each_chunk(rows.as_mut_slice::<f32>(), TASK_PATCHES * row_len, &|task, rows| {
        for (idx, row) in rows.chunks_exact_mut(row_len).enumerate() {
            cutter.cut(task * TASK_PATCHES + idx, row);
        }
    });
}

/// Patches of one task: some 20 µs of work.
const TASK_PATCHES: usize = 32;

struct Cutter<'a> {
    frames: &'a [u8],
    grid: Grid,
    shape: PatchShape,
    table: [[f32; 256]; 3],
    n_frames: usize,
}

impl Cutter<'_> {
    fn result_shape(&self) -> [usize; 2] {
        let PatchShape { patch_size: size, temporal_patch_size: depth, .. } = self.shape;
        [self.grid.n_patches(), 3 * depth * size * size]
    }

    /// Writes the row of patch `idx`.
    fn cut(&self, idx: usize, row: &mut [f32]) {
        let PatchShape { patch_size: size, temporal_patch_size: depth, .. } = self.shape;
        let (t, y, x) = self.place(idx);
        let row_bytes = self.grid.w as usize * size * 3;
        let frame_len = self.grid.h as usize * size * row_bytes;
        let planes = row.chunks_exact_mut(size * size).enumerate();
        for (plane, values) in planes {
            let (channel, frame) = (plane / depth, t * depth + plane % depth);
            let frame = frame.min(self.n_frames - 1) * frame_len;
            let corner = frame + y * size * row_bytes + x * size * 3 + channel;
            for (line, values) in values.chunks_exact_mut(size).enumerate() {
                let pixels = self.frames[corner + line * row_bytes..].iter().step_by(3);
                for (value, &pixel) in values.iter_mut().zip(pixels) {
                    *value = self.table[channel][usize::from(pixel)];
                }
            }
        }
    }

    /// Time, row and column of patch `idx`.
    fn place(&self, idx: usize) -> (usize, usize, usize) {
        let (merge, w) = (self.shape.merge_size, self.grid.w as usize);
        let (t, idx) = (idx / (self.grid.h as usize * w), idx % (self.grid.h as usize * w));
        let (window, inside) = (idx / (merge * merge), idx % (merge * merge));
        let (window_row, window_column) = (window / (w / merge), window % (w / merge));
        (t, window_row * merge + inside / merge, window_column * merge + inside % merge)
    }
}

/// The number that each byte becomes, per channel.
fn value_table(normalisation: &Normalisation) -> [[f32; 256]; 3] {
    std::array::from_fn(|channel| {
        std::array::from_fn(|byte| {
            let rescaled = (byte as f64 * normalisation.rescale) as f32;
            (rescaled - normalisation.mean[channel]) / normalisation.std[channel]
        })
    })
}

/// What the kernel must know beside the pixels: a parameter, so that nothing is uploaded for it.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Cutting {
    table: [[f32; 256]; 3],
    grid_h: u32,
    grid_w: u32,
    patch_size: u32,
    temporal_patch_size: u32,
    merge_size: u32,
    n_frames: u32,
    n_patches: u32,
}

/// Threads of a block, which cuts several patches, because it first copies the table of values.
const PATCH_THREADS: u32 = 128;
const PATCHES_OF_BLOCK: usize = 8;

fn run_cuda(device: &Device, gpu: &Cuda, cutter: &Cutter<'_>, rows: &mut Tensor) -> Result<()> {
    let frames = Tensor::scratch_on(device, DType::U8, &[cutter.frames.len()])?;
    gpu.upload(cutter.frames, frames.address())?;
    let PatchShape { patch_size, temporal_patch_size, merge_size } = cutter.shape;
    let cutting = Cutting {
        table: cutter.table,
        grid_h: cutter.grid.h,
        grid_w: cutter.grid.w,
        patch_size: patch_size as u32,
        temporal_patch_size: temporal_patch_size as u32,
        merge_size: merge_size as u32,
        n_frames: cutter.n_frames as u32,
        n_patches: rows.n_rows() as u32,
    };
    let grid = cuda::Grid::line(rows.n_rows().div_ceil(PATCHES_OF_BLOCK), PATCH_THREADS);
    let name = format!("patches_{}", rows.dtype().name());
    let cutting = Arg::Bytes(bytemuck::bytes_of(&cutting));
    gpu.launch("patches", &name, grid, &[Arg::tensor(&frames), Arg::mut_tensor(rows), cutting])
}

#[cfg(test)]
#[path = "patches_tests.rs"]
mod tests;
