//! Cases of rotary embeddings: against f64, and the same bits however they are computed.

use super::*;
use crate::ops::cases::{Random, assert_close, bits, everywhere};
use crate::ops::gpu_cases::{assert_near, gpus, poison, repeated, rounded, widened};

/// Rows, heads in a row, half a head: odd, real (32, 36, 40, 64), more than a task.
const CASES: &[(usize, usize, usize)] = &[
    (1, 1, 1),
    (2, 3, 5),
    (3, 6, 32),
    (2, 4, 40),
    (5, 4, 64),
    (2, 2, 33),
    (0, 2, 4),
    (200, 8, 36),
    (9, 40, 64),
];

/// A case in the compute type, and what becomes of its middle heads.
struct Case {
    x: Tensor,
    angles: Angles,
    heads: Range<usize>,
    expected: Vec<f64>,
}

impl Case {
    fn of(dtype: DType, form: Form, (n_rows, n_heads, half): (usize, usize, usize)) -> Self {
        let mut random = Random((n_rows + n_heads + half) as u64);
        let shape = [n_rows, n_heads * 2 * half];
        let x = rounded(dtype, &shape, &random.units(n_rows * n_heads * 2 * half));
        let angles =
            Angles { cos: random.tensor(&[n_rows, half]), sin: random.tensor(&[n_rows, half]) };
        let heads = n_heads / 3..n_heads.div_ceil(2);
        let mut expected: Vec<f64> = widened(&x).into_iter().map(f64::from).collect();
        for (idx, head) in expected.chunks_exact_mut(2 * half).enumerate() {
            if heads.contains(&(idx % n_heads)) {
                let row = idx / n_heads;
                turn(form, head, angles.cos.row(row), angles.sin.row(row));
            }
        }
        Self { x, angles, heads, expected }
    }
}

fn turn(form: Form, head: &mut [f64], cos: &[f32], sin: &[f32]) {
    let half = cos.len();
    for i in 0..half {
        let (first, second) = match form {
            Form::Halves => (i, i + half),
            Form::Pairs => (2 * i, 2 * i + 1),
        };
        let (a, b) = (head[first], head[second]);
        let (cos, sin) = (f64::from(cos[i]), f64::from(sin[i]));
        head[first] = a * cos - b * sin;
        head[second] = b * cos + a * sin;
    }
}

#[test]
fn heads_are_rotated_and_the_others_left() {
    for form in [Form::Halves, Form::Pairs] {
        for &size in CASES {
            let case = Case::of(DType::F32, form, size);
            let mut first = None;
            for (threads, isa) in everywhere() {
                let mut y = Tensor::from_slice(case.x.shape(), case.x.as_f32());
                run_cpu((&threads, isa), form, &mut y, (&case.angles, case.heads.clone()));
                assert_close(y.as_f32(), &case.expected, 1e-6, &format!("{form:?} {size:?}"));
                assert_eq!(&bits(&y), first.get_or_insert(bits(&y)), "{isa:?} has other bits");
            }
        }
    }
}

fn check_cuda(device: &Device, form: Form, size: (usize, usize, usize)) {
    let case = Case::of(device.compute_dtype(), form, size);
    let [cos, sin] =
        [&case.angles.cos, &case.angles.sin].map(|angles| angles.to_device(device).unwrap());
    let angles = Angles { cos, sin };
    let y = repeated(device, || {
        let mut x = case.x.to_device(device).unwrap();
        run(device, form, &mut x, &angles, case.heads.clone()).unwrap();
        x
    });
    let what = format!("{form:?} {size:?}");
    assert_near(device.compute_dtype(), &y, &case.expected, &what);
}

#[test]
fn cuda_heads_are_rotated_and_the_others_left() {
    for device in gpus() {
        for &size in CASES {
            check_cuda(&device, Form::Halves, size);
            check_cuda(&device, Form::Pairs, size);
        }
    }
}

/// Positions on three axes, near and far; frequencies as models have them; mixed axes.
fn positions(n_rows: usize, half: usize) -> [Tensor; 3] {
    let mut random = Random(n_rows as u64);
    let mut number = |n_max: f32| ((random.unit() + 1.0) / 2.0 * n_max) as u32;
    let positions: Vec<u32> = (0..n_rows)
        .flat_map(|row| if row == 0 { [0; 3] } else { [100.0, 4e4, 4e6].map(&mut number) })
        .collect();
    let frequencies: Vec<f32> =
        (0..half).map(|i| 1.0 / 1e6_f32.powf(i as f32 / half as f32)).collect();
    let axes: Vec<u32> = (0..half).map(|i| (i * 5 % 3) as u32).collect();
    [
        Tensor::from_slice(&[n_rows, 3], &positions),
        Tensor::from_slice(&[half], &frequencies),
        Tensor::from_slice(&[half], &axes),
    ]
}

/// Rows and frequencies: around blocks, real.
const ANGLES: &[(usize, usize)] = &[(0, 4), (1, 1), (3, 33), (2, 64), (129, 40), (1000, 64)];

fn check_angles(device: &Device, (n_rows, half): (usize, usize)) {
    let [positions, frequencies, axes] = positions(n_rows, half);
    let on_device = |tensor: &Tensor| tensor.to_device(device).unwrap();
    let [places, speeds, own_axes] = [&positions, &frequencies, &axes].map(on_device);
    poison(device);
    let angles = Angles::on_axes(device, &places, &speeds, &own_axes).unwrap();
    let [cos, sin] = [&angles.cos, &angles.sin].map(|tensor| tensor.to_host(device).unwrap());
    assert_eq!((cos.shape(), sin.shape()), (&[n_rows, half][..], &[n_rows, half][..]));
    for (at, (cos, sin)) in cos.as_f32().iter().zip(sin.as_f32()).enumerate() {
        let (row, i) = (at / half, at % half);
        let position = positions.as_slice::<u32>()[row * 3 + axes.as_slice::<u32>()[i] as usize];
        let angle = f64::from(position as f32 * frequencies.as_f32()[i]);
        let off = (f64::from(*cos) - angle.cos()).abs().max((f64::from(*sin) - angle.sin()).abs());
        assert!(off <= 2e-7, "cosine or sine of {angle} is off by {off}");
    }
}

#[test]
fn angles_turn_with_their_axis() {
    let device = Device::all_cpus();
    ANGLES.iter().for_each(|&size| check_angles(&device, size));
}

#[test]
fn cuda_angles_turn_with_their_axis() {
    for device in gpus() {
        ANGLES.iter().for_each(|&size| check_angles(&device, size));
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let device = Device::all_cpus();
    let angles = Angles { cos: Tensor::zeros::<f32>(&[2, 4]), sin: Tensor::zeros::<f32>(&[2, 4]) };
    let mut x = Tensor::zeros::<f32>(&[2, 16]);
    assert!(rotary(&device, &mut x, &angles, 0..3).is_err());
    assert!(rotary_pairs(&device, &mut x, &angles, 0..3).is_err());
    let mut x = Tensor::zeros::<f32>(&[3, 16]);
    assert!(rotary(&device, &mut x, &angles, 0..1).is_err());
    let [positions, frequencies, axes] = positions(2, 4);
    assert!(Angles::on_axes(&device, &frequencies, &frequencies, &axes).is_err());
    assert!(Angles::on_axes(&device, &positions, &frequencies, &positions).is_err());
}
