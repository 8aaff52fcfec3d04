//! Cases of patches: every element where the contract says.

use super::*;
use crate::ops::gpu_cases::{gpus, repeated};
use half::{bf16, f16};

const PLAIN: Normalisation = Normalisation { rescale: 1.0, mean: [0.0; 3], std: [1.0; 3] };

/// Grids, shapes of a patch, frames: pictures, videos, odd patches, more than one block.
const CASES: &[(Grid, PatchShape, usize)] = &[
    (Grid { t: 1, h: 2, w: 2 }, QWEN2_VL, 1),
    (Grid { t: 1, h: 4, w: 10 }, QWEN2_VL, 1),
    (Grid { t: 3, h: 4, w: 2 }, QWEN2_VL, 6),
    (Grid { t: 1, h: 18, w: 26 }, QWEN2_VL, 2),
    (Grid { t: 1, h: 5, w: 7 }, SMALL, 1),
    (Grid { t: 1, h: 1, w: 1 }, SMALL, 1),
];
const QWEN2_VL: PatchShape = PatchShape { patch_size: 14, temporal_patch_size: 2, merge_size: 2 };
const SMALL: PatchShape = PatchShape { patch_size: 3, temporal_patch_size: 1, merge_size: 1 };

/// Builds every element by its definition.
fn check((grid, shape, n_frames): (Grid, PatchShape, usize)) {
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
    CASES.iter().for_each(|&case| check(case));
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

#[test]
fn cuda_elements_are_those_of_the_processor() {
    let normalisation = Normalisation {
        rescale: 1.0 / 255.0,
        mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
        std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
    };
    for device in gpus() {
        for &(grid, shape, n_frames) in CASES {
            let side = shape.patch_size;
            let n_bytes = n_frames * grid.h as usize * side * grid.w as usize * side * 3;
            let frames: Vec<u8> = (0..n_bytes).map(|i| (i * 31 % 256) as u8).collect();
            let cut =
                |device: &Device| patches(device, &frames, grid, shape, &normalisation).unwrap();
            let expected = cut(&Device::all_cpus());
            let rounded = expected.as_f32().iter().map(|&value| match device.compute_dtype() {
                DType::Bf16 => bf16::from_f32(value).to_f32(),
                DType::F16 => f16::from_f32(value).to_f32(),
                DType::F32 | DType::U8 | DType::U32 => value,
            });
            let got = repeated(&device, || cut(&device));
            assert_eq!(got, rounded.collect::<Vec<f32>>(), "{grid:?}");
        }
    }
}
