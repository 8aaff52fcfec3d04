//! Cases of resampling: against f64, by the definition.

use super::*;
use crate::ops::cases::{Random, assert_close};
use crate::ops::gpu_cases::{COMPUTE, assert_near, gpus, repeated, rounded, widened};

/// Grids, size before and after, channels: one, real ones (LLaVA-OneVision's videos, Gemma 3),
/// enlarged, not multiples.
const CASES: &[(usize, GridSize, GridSize, usize)] = &[
    (1, size(1, 1), size(1, 1), 1),
    (1, size(1, 1), size(3, 2), 5),
    (1, size(4, 6), size(2, 3), 33),
    (2, size(5, 7), size(3, 11), 31),
    (1, size(7, 5), size(7, 5), 64),
    (3, size(27, 27), size(14, 14), 40),
    (1, size(64, 64), size(16, 16), 36),
    (1, size(48, 48), size(22, 40), 257),
    (1, size(3, 200), size(2, 1), 1152),
];

const fn size(h: usize, w: usize) -> GridSize {
    GridSize { h, w }
}

/// The inputs of a result on one axis, with their weights.
fn taps(method: Method, idx: usize, n: usize, n_out: usize) -> Vec<(usize, f64)> {
    let scale = n as f64 / n_out as f64;
    match method {
        Method::Bilinear => {
            let centre = ((idx as f64 + 0.5) * scale - 0.5).max(0.0);
            let low = (centre.floor() as usize).min(n - 1);
            let weight = centre - low as f64;
            vec![(low, 1.0 - weight), ((low + 1).min(n - 1), weight)]
        }
        Method::Area => {
            let inputs = idx * n / n_out..((idx + 1) * n).div_ceil(n_out);
            let weight = 1.0 / inputs.len() as f64;
            inputs.map(|input| (input, weight)).collect()
        }
    }
}

fn reference(
    method: Method,
    x: &[f32],
    (n_grids, from, to, n): (usize, GridSize, GridSize, usize),
) -> Vec<f64> {
    let mut y = Vec::new();
    let places = (0..n_grids * to.h * to.w).map(|i| (i / (to.h * to.w), i / to.w % to.h, i % to.w));
    for (grid, row, column) in places {
        for channel in 0..n {
            let mut sum = 0.0;
            for (row, above) in taps(method, row, from.h, to.h) {
                for (column, beside) in taps(method, column, from.w, to.w) {
                    let at = ((grid * from.h + row) * from.w + column) * n + channel;
                    sum += above * beside * f64::from(x[at]);
                }
            }
            y.push(sum);
        }
    }
    y
}

fn input(dtype: DType, (n_grids, from, _, n): (usize, GridSize, GridSize, usize)) -> Tensor {
    let values = Random(n as u64).units(n_grids * from.h * from.w * n);
    rounded(dtype, &[n_grids, from.h, from.w, n], &values)
}

#[test]
fn grids_are_resampled() {
    let device = Device::all_cpus();
    for method in [Method::Bilinear, Method::Area] {
        for &case in CASES {
            let x = input(DType::F32, case);
            let y = run(&device, method, &x, case.2).unwrap();
            assert_eq!(y.shape(), [case.0, case.2.h, case.2.w, case.3]);
            let expected = reference(method, x.as_f32(), case);
            assert_close(y.as_f32(), &expected, 2e-6, &format!("{method:?} {case:?}"));
        }
    }
}

/// Four results between two inputs, as PyTorch gives them.
#[test]
fn a_known_line_is_enlarged() {
    let device = Device::all_cpus();
    let x = Tensor::from_slice(&[1, 2, 1], &[0.0_f32, 1.0]);
    let y = bilinear(&device, &x, size(1, 4)).unwrap();
    assert_eq!(y.as_f32(), [0.0, 0.25, 0.75, 1.0]);
    let x = Tensor::from_slice(&[1, 5, 1], &[1.0_f32, 2.0, 3.0, 4.0, 5.0]);
    let y = area_mean(&device, &x, size(1, 2)).unwrap();
    assert_eq!(y.as_f32(), [2.0, 4.0]);
}

#[test]
fn cuda_grids_are_resampled() {
    for (device, dtype) in gpus().into_iter().zip(COMPUTE) {
        for method in [Method::Bilinear, Method::Area] {
            for &case in CASES {
                let x = input(dtype, case);
                let on_device = x.to_device(&device).unwrap();
                let y = repeated(&device, || run(&device, method, &on_device, case.2).unwrap());
                let expected = reference(method, &widened(&x), case);
                assert_near(dtype, &y, &expected, &format!("{method:?} {case:?}"));
            }
        }
    }
}

#[test]
fn what_is_no_grid_is_refused() {
    let device = Device::all_cpus();
    let x = Tensor::zeros::<f32>(&[2, 2]);
    assert!(bilinear(&device, &x, size(1, 1)).is_err());
    let x = Tensor::zeros::<f32>(&[2, 2, 3]);
    assert!(bilinear(&device, &x, size(0, 1)).is_err());
    assert!(area_mean(&device, &x, size(1, 0)).is_err());
    let x = Tensor::zeros::<f32>(&[0, 2, 3]);
    assert!(area_mean(&device, &x, size(1, 1)).is_err());
}
