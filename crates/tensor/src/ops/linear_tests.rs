//! Cases of products with weights: against f64, and the bits of a row whatever is beside it.

use super::*;
use crate::ops::cases::{Random, assert_close, bits, everywhere};
use crate::ops::weight::{Elements, Matrix};

/// Rows, outputs and inputs: alone, around the widths of tiles, panels and tasks, and large.
const CASES: &[(usize, usize, usize)] = &[
    (1, 1, 1),
    (1, 16, 64),
    (1, 129, 33),
    (2, 15, 7),
    (3, 17, 64),
    (4, 48, 5),
    (7, 64, 64),
    (8, 49, 128),
    (9, 130, 17),
    (16, 96, 64),
    (17, 100, 31),
    (140, 208, 96),
    (1, 4000, 300),
    (0, 16, 16),
];
const DTYPES: [DType; 3] = [DType::F32, DType::Bf16, DType::F16];

struct Case {
    x: Tensor,
    weight: Weight,
    /// `x Wᵀ + b` in f64, `[rows, n]`.
    sums: Vec<f64>,
}

fn case((n_rows, n, k): (usize, usize, usize), dtype: DType, gated: bool) -> Case {
    let mut random = Random((n_rows * 7 + n * 3 + k) as u64);
    let x = random.tensor(&[n_rows, k]);
    let n_matrices = if gated { 2 } else { 1 };
    let stored: Vec<_> = (0..n_matrices).map(|_| random.stored(dtype, n * k)).collect();
    let biases: Vec<Vec<f32>> = (0..n_matrices).map(|_| random.units(n)).collect();
    let matrices: Vec<Matrix<'_>> =
        stored.iter().map(|(bytes, _)| matrix(dtype, (n, k), bytes)).collect();
    let arrangement = if gated { Arrangement::Alternating } else { Arrangement::Stacked };
    let weight = Weight::pack(&Device::all_cpus(), &matrices, &biases, arrangement).unwrap();
    let mut sums = Vec::new();
    for row in 0..n_rows {
        for ((_, values), bias) in stored.iter().zip(&biases) {
            for (column, bias) in values.chunks(k).zip(bias) {
                let products = x.row(row).iter().zip(column);
                let product: f64 = products.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                sums.push(product + f64::from(*bias));
            }
        }
    }
    Case { x, weight, sums }
}

fn apply(finish: Finish, sum: f64) -> f64 {
    match finish {
        Finish::Add => sum + 1.0,
        Finish::Write(Activation::None) => sum,
        Finish::Write(Activation::QuickGelu) => sum / (1.0 + (-1.702 * sum).exp()),
        Finish::Write(Activation::Gelu) => sum * 0.5 * (1.0 + erf(sum / 2_f64.sqrt())),
        Finish::Write(Activation::GeluTanh) => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (sum + 0.044_715 * sum.powi(3));
            0.5 * sum * (1.0 + inner.tanh())
        }
        Finish::Write(Activation::Silu | Activation::SwiGlu) => sum / (1.0 + (-sum).exp()),
        Finish::Write(Activation::Relu) => sum.max(0.0),
    }
}

/// The error function by its Taylor series, good for the |x| < 5 met here.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..120 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    if x.abs() > 5.0 { x.signum() } else { sum * 2.0 / std::f64::consts::PI.sqrt() }
}

fn check(size: (usize, usize, usize), dtype: DType, finish: Finish) {
    let gated = finish.is_gated();
    let case = case(size, dtype, gated);
    let (n_rows, n, _) = size;
    let expected: Vec<f64> = match gated {
        false => case.sums.iter().map(|&sum| apply(finish, sum)).collect(),
        true => case
            .sums
            .chunks(2 * n)
            .flat_map(|row| (0..n).map(|i| apply(finish, row[i]) * row[n + i]))
            .collect(),
    };
    let what = format!("{size:?} {dtype:?} {finish:?}");
    let run = |threads: &Threads, isa, x: &Tensor| {
        let mut y = Tensor::from_slice(&[x.n_rows(), n], &vec![1.0_f32; x.n_rows() * n]);
        run_cpu(threads, isa, x, &case.weight, (&mut y, finish));
        y
    };
    let mut first = None;
    for (threads, isa) in everywhere() {
        let y = run(&threads, isa, &case.x);
        assert_close(y.as_f32(), &expected, 3e-5, &what);
        assert_eq!(&bits(&y), first.get_or_insert(bits(&y)), "{what}: {isa:?} has other bits");
        for row in 0..n_rows.min(19) {
            let alone = Tensor::from_slice(&[1, case.x.row_len()], case.x.row(row));
            let alone = run(&threads, isa, &alone);
            let together = Tensor::from_slice(&[1, n], y.row(row));
            assert_eq!(bits(&alone), bits(&together), "{what}: row {row} alone");
        }
    }
}

#[test]
fn products_are_right_and_their_bits_depend_on_nothing_else() {
    for &size in CASES {
        for dtype in DTYPES {
            check(size, dtype, Finish::Write(Activation::None));
        }
        check(size, DType::Bf16, Finish::Add);
    }
}

#[test]
fn activations_are_right() {
    for size in [(1, 16, 4), (5, 48, 64), (20, 112, 33)] {
        for activation in [
            Activation::QuickGelu,
            Activation::Gelu,
            Activation::GeluTanh,
            Activation::Silu,
            Activation::Relu,
            Activation::SwiGlu,
        ] {
            DTYPES.iter().for_each(|&dtype| check(size, dtype, Finish::Write(activation)));
        }
    }
}

#[test]
fn matrices_stacked_give_the_columns_of_each() {
    let device = Device::all_cpus();
    let mut random = Random(5);
    let x = random.tensor(&[3, 24]);
    let (first, second) = (random.stored(DType::F16, 32 * 24), random.stored(DType::F32, 5 * 24));
    let matrices = [matrix(DType::F16, (32, 24), &first.0), matrix(DType::F32, (5, 24), &second.0)];
    let pack = |matrices: &[Matrix<'_>]| {
        Weight::pack(&device, matrices, &[], Arrangement::Stacked).unwrap()
    };
    let run = |weight: &Weight| linear(&device, &x, weight, Activation::None).unwrap();
    let both = run(&pack(&matrices));
    let (one, other) = (run(&pack(&matrices[..1])), run(&pack(&matrices[1..])));
    for row in 0..3 {
        assert_eq!(both.row(row), [one.row(row), other.row(row)].concat());
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let device = Device::all_cpus();
    let case = case((2, 16, 8), DType::F32, false);
    let narrow = Tensor::zeros::<f32>(&[2, 7]);
    assert!(linear(&device, &narrow, &case.weight, Activation::None).is_err());
    assert!(linear(&device, &case.x, &case.weight, Activation::SwiGlu).is_err());
    let mut y = Tensor::zeros::<f32>(&[3, 16]);
    assert!(linear_add(&device, &case.x, &case.weight, &mut y).is_err());
    let bytes = [0; 64];
    let ragged = matrix(DType::F32, (4, 4), &bytes[..48]);
    for arrangement in [Arrangement::Stacked, Arrangement::Alternating] {
        assert!(Weight::pack(&device, &[ragged, ragged], &[], arrangement).is_err());
        assert!(Weight::pack(&device, &[], &[], arrangement).is_err());
    }
}

fn matrix(dtype: DType, (n_rows, n_columns): (usize, usize), bytes: &[u8]) -> Matrix<'_> {
    Matrix { dtype, n_rows, n_columns, bytes: bytes.into() }
}

/// What stands in for a checkpoint is the same weight as if it were written out.
#[test]
fn a_repeated_block_is_a_weight() {
    let device = Device::all_cpus();
    let mut random = Random(8);
    let (n, k, period) = (40, 24, 31);
    let (block, _) = random.stored(DType::Bf16, period);
    let twice = block.repeat(2);
    let repeated = Elements::Repeated { bytes: &twice, period: block.len(), start: 10 };
    let written = repeated.first(n * k * 2);
    assert_eq!(written[..block.len() - 10], block[10..]);
    let pack = |bytes| {
        let matrix = Matrix { dtype: DType::Bf16, n_rows: n, n_columns: k, bytes };
        Weight::pack(&device, &[matrix], &[], Arrangement::Stacked)
    };
    let x = random.tensor(&[3, k]);
    let run = |weight: &Weight| linear(&device, &x, weight, Activation::None).unwrap();
    let expected = run(&pack(Elements::All(&written)).unwrap());
    assert_eq!(run(&pack(repeated).unwrap()).as_f32(), expected.as_f32());
    // A row would not lie in one piece.
    let short = Elements::Repeated { bytes: &block, period: block.len(), start: 10 };
    assert!(pack(short).is_err());
}
