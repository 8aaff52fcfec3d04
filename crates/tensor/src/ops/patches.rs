//! Pixels to the tower's patches: rescaled, normalised, and cut in the order of merged windows.
//!
//! Contract. `frames` u8 `[n_frames, 14·h, 14·w, 3]` (14 standing for the patch size); result f32
//! `[t·h·w, 3·T·P·P]`, a row per patch, its elements in the order (channel, frame, y, x), the
//! patches in the order (t, window row, window column, row in window, column in window). A picture
//! is one frame, seen `T` times. Values are `(value · rescale - mean) / std`, rounded like the
//! reference's steps.

use super::misuse;
use crate::device::Device;
use crate::tensor::Tensor;
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
    let Device::Cpu(threads) = device else {
        return Err(misuse("patches", "not on a GPU yet"));
    };
    let cutter = Cutter { frames, grid, shape, table: value_table(normalisation), n_frames };
    let row_len = 3 * shape.temporal_patch_size * shape.patch_size * shape.patch_size;
    let mut rows = Tensor::scratch::<f32>(&[grid.n_patches(), row_len]);
    threads.for_each_chunk(rows.as_mut_slice::<f32>(), TASK_PATCHES * row_len, &|task, rows| {
        for (idx, row) in rows.chunks_exact_mut(row_len).enumerate() {
            cutter.cut(task * TASK_PATCHES + idx, row);
        }
    });
    Ok(rows)
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

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Normalisation = Normalisation { rescale: 1.0, mean: [0.0; 3], std: [1.0; 3] };

    /// Builds every element by its definition.
    fn check(grid: Grid, shape: PatchShape, n_frames: usize) {
        let (size, depth, merge) = (shape.patch_size, shape.temporal_patch_size, shape.merge_size);
        let (height, width) = (grid.h as usize * size, grid.w as usize * size);
        let frames: Vec<u8> = (0..n_frames * height * width * 3).map(|i| (i % 251) as u8).collect();
        let rows = patches(&Device::all_cpus(), &frames, grid, shape, &PLAIN).unwrap();
        let mut expected = Vec::new();
        for t in 0..grid.t as usize {
            for (window_y, window_x) in pairs(grid.h as usize / merge, grid.w as usize / merge) {
                for (y, x) in pairs(merge, merge) {
                    for (channel, frame) in pairs(3, depth) {
                        let frame = if n_frames == 1 { 0 } else { t * depth + frame };
                        for (line, column) in pairs(size, size) {
                            let y = (window_y * merge + y) * size + line;
                            let x = (window_x * merge + x) * size + column;
                            let at = ((frame * height + y) * width + x) * 3 + channel;
                            expected.push(f32::from(frames[at]));
                        }
                    }
                }
            }
        }
        assert_eq!(rows.as_f32(), expected);
    }

    fn pairs(n: usize, m: usize) -> impl Iterator<Item = (usize, usize)> {
        (0..n).flat_map(move |a| (0..m).map(move |b| (a, b)))
    }

    #[test]
    fn elements_are_where_the_contract_says() {
        let shape = PatchShape { patch_size: 14, temporal_patch_size: 2, merge_size: 2 };
        check(Grid { t: 1, h: 2, w: 2 }, shape, 1);
        check(Grid { t: 1, h: 4, w: 10 }, shape, 1);
        check(Grid { t: 3, h: 4, w: 2 }, shape, 6);
        let shape = PatchShape { patch_size: 3, temporal_patch_size: 1, merge_size: 1 };
        check(Grid { t: 1, h: 5, w: 7 }, shape, 1);
    }

    #[test]
    fn frames_of_another_grid_are_refused() {
        let shape = PatchShape { patch_size: 2, temporal_patch_size: 2, merge_size: 1 };
        let device = Device::all_cpus();
        for n_bytes in [0, 11, 13, 36] {
            let grid = Grid { t: 1, h: 1, w: 1 };
            assert!(patches(&device, &vec![0; n_bytes], grid, shape, &PLAIN).is_err());
        }
    }

    #[test]
    fn values_are_normalised_per_channel() {
        let normalisation =
            Normalisation { rescale: 1.0 / 255.0, mean: [0.5, 0.25, 0.0], std: [0.5, 1.0, 2.0] };
        let table = value_table(&normalisation);
        assert_eq!([table[0][0], table[0][255]], [-1.0, 1.0]);
        assert_eq!([table[1][0], table[1][255]], [-0.25, 0.75]);
        assert_eq!([table[2][0], table[2][255]], [0.0, 0.5]);
    }
}
