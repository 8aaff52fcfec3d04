//! Cases of the norms: against f64, and the same bits however they are computed.

use super::*;
use crate::ops::cases::{Random, assert_close, bits, everywhere};
use crate::ops::gpu_cases::{assert_near, gpus, repeated, rounded, widened};

/// Rows and columns: around the vector width, real widths, more than a task.
const CASES: &[(usize, usize)] =
    &[(1, 1), (1, 15), (2, 16), (3, 17), (5, 33), (4, 160), (300, 256), (2, 1280), (0, 16)];
const EPSILON: f32 = 1e-6;

fn reference(x: &[f32], weight: &[f32], bias: Option<&[f32]>) -> Vec<f64> {
    let n = x.len() as f64;
    let mean: f64 = bias.map_or(0.0, |_| x.iter().map(|&v| f64::from(v)).sum::<f64>() / n);
    let variance = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
    let scale = 1.0 / (variance + f64::from(EPSILON)).sqrt();
    let scaled = x.iter().zip(weight).map(|(&v, &w)| (f64::from(v) - mean) * scale * f64::from(w));
    scaled.enumerate().map(|(i, v)| v + bias.map_or(0.0, |bias| f64::from(bias[i]))).collect()
}

/// An input far from zero, so that a variance without centring would show; weight and bias; and
/// what should come out.
fn case((n_rows, n): (usize, usize), is_layer_norm: bool) -> (Tensor, [Tensor; 2], Vec<f64>) {
    let mut random = Random((n_rows + n) as u64);
    let values: Vec<f32> = random.units(n_rows * n).iter().map(|v| v + 3.0).collect();
    let x = Tensor::from_slice(&[n_rows, n], &values);
    let (weight, bias) = (random.tensor(&[n]), random.tensor(&[n]));
    let bias_values = is_layer_norm.then(|| bias.as_f32());
    let expected =
        (0..n_rows).flat_map(|row| reference(x.row(row), weight.as_f32(), bias_values)).collect();
    (x, [weight, bias], expected)
}

fn check((n_rows, n): (usize, usize), is_layer_norm: bool) {
    let (x, [weight, bias], expected) = case((n_rows, n), is_layer_norm);
    let bias = is_layer_norm.then_some(&bias);
    let mut first = None;
    for (threads, isa) in everywhere() {
        let y = run_cpu(&threads, isa, &x, (&weight, bias, EPSILON));
        // A single column is all rounding error, scaled up by 1/sqrt(epsilon).
        assert_close(y.as_f32(), &expected, 2e-5, &format!("{n_rows} x {n}"));
        assert_eq!(&bits(&y), first.get_or_insert(bits(&y)), "{isa:?} has other bits");
    }
}

#[test]
fn rows_are_normalised() {
    for &size in CASES {
        check(size, true);
        check(size, false);
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let device = Device::all_cpus();
    let (x, weight) = (Tensor::zeros::<f32>(&[2, 8]), Tensor::zeros::<f32>(&[7]));
    assert!(rms_norm(&device, &x, &weight, EPSILON).is_err());
    assert!(layer_norm(&device, &x, &weight, &weight, EPSILON).is_err());
    let mut x = x;
    assert!(rms_norm_heads(&device, &mut x, &weight, EPSILON, 0..1).is_ok());
    assert!(rms_norm_heads(&device, &mut x, &weight, EPSILON, 0..2).is_err());
}

/// Around vectors, warps and the elements that a block keeps in registers, with and without whole
/// groups; real widths.
const CUDA_CASES: &[(usize, usize)] = &[
    (1, 1),
    (2, 3),
    (3, 31),
    (2, 32),
    (5, 33),
    (2, 127),
    (2, 132),
    (0, 64),
    (300, 256),
    (7, 1176),
    (33, 1280),
    (9, 3584),
    (1, 4096),
    (2, 5003),
    (2, 16_384),
    (2, 20_004),
];

fn check_cuda(device: &Device, size: (usize, usize), is_layer_norm: bool) {
    let (x, [weight, bias], expected) = case(size, is_layer_norm);
    let [x, weight, bias] = [&x, &weight, &bias].map(|tensor| tensor.to_device(device).unwrap());
    let y = repeated(device, || match is_layer_norm {
        true => layer_norm(device, &x, &weight, &bias, EPSILON).unwrap(),
        false => rms_norm(device, &x, &weight, EPSILON).unwrap(),
    });
    assert_near(device.compute_dtype(), &y, &expected, &format!("norm of {size:?}"));
}

#[test]
fn cuda_rows_are_normalised() {
    for device in gpus() {
        for &size in CUDA_CASES {
            check_cuda(&device, size, true);
            check_cuda(&device, size, false);
        }
    }
}

/// Rows, heads of a row, size of a head: around vectors and warps, real ones.
const HEAD_CASES: &[(usize, usize, usize)] = &[
    (1, 1, 1),
    (2, 3, 5),
    (3, 2, 33),
    (4, 6, 64),
    (2, 5, 72),
    (3, 4, 80),
    (70, 10, 128),
    (2, 3, 256),
    (0, 2, 64),
];

/// Heads of the compute type, and what becomes of the middle ones.
fn head_case(
    device: &Device,
    (n_rows, n_heads, dim): (usize, usize, usize),
) -> (Tensor, Tensor, Range<usize>, Vec<f64>) {
    let mut random = Random((n_rows * n_heads + dim) as u64);
    let shape = [n_rows, n_heads * dim];
    let x = rounded(device.compute_dtype(), &shape, &random.units(n_rows * n_heads * dim));
    let weight = random.tensor(&[dim]);
    let heads = n_heads / 3..n_heads.div_ceil(2);
    let mut expected = Vec::new();
    for (idx, head) in widened(&x).chunks_exact(dim).enumerate() {
        match heads.contains(&(idx % n_heads)) {
            true => expected.extend(reference(head, weight.as_f32(), None)),
            false => expected.extend(head.iter().map(|&value| f64::from(value))),
        }
    }
    (x, weight, heads, expected)
}

#[test]
fn heads_are_normalised_and_the_others_left() {
    for &size in HEAD_CASES {
        let mut first = None;
        for (threads, isa) in everywhere() {
            let (mut x, weight, heads, expected) = head_case(&Device::all_cpus(), size);
            heads_cpu(&threads, isa, &mut x, (&weight, EPSILON, heads));
            assert_close(x.as_f32(), &expected, 1e-5, &format!("heads of {size:?}"));
            assert_eq!(&bits(&x), first.get_or_insert(bits(&x)), "{isa:?} has other bits");
        }
    }
}

#[test]
fn cuda_heads_are_normalised_and_the_others_left() {
    for device in gpus() {
        for &size in HEAD_CASES {
            let (x, weight, heads, expected) = head_case(&device, size);
            let weight = weight.to_device(&device).unwrap();
            let y = repeated(&device, || {
                let mut x = x.to_device(&device).unwrap();
                rms_norm_heads(&device, &mut x, &weight, EPSILON, heads.clone()).unwrap();
                x
            });
            assert_near(device.compute_dtype(), &y, &expected, &format!("heads of {size:?}"));
        }
    }
}
