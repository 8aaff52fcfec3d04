//! Cases of products on a GPU: each way against f64, the bits of a row whatever is beside it, and
//! what the choice of algorithms promises.

use super::*;
use crate::cuda::{CudaOptions, GemmChoices};
use crate::ops::cases::{Random, cuda_device};
use crate::ops::gpu_cases::{COMPUTE, assert_near, gpus, poison, repeated, rounded, widened};
use crate::ops::linear_cuda_skinny::{self, Kernel, Plan};
use crate::ops::weight::{Arrangement, Matrix};
use crate::ops::{linear, linear_add, linear_f32, rms_norm};

/// Outputs of one matrix, inputs: alone, around tiles and steps, odd, and slices of k.
const SIZES: &[(usize, usize)] = &[
    (1, 1),
    (16, 64),
    (48, 40),
    (17, 33),
    (96, 72),
    (130, 8),
    (512, 256),
    (208, 1000),
    (64, 4096),
];
/// Rows: alone, around the widths of kernels, and beyond them.
const ROWS: &[usize] = &[1, 2, 7, 8, 9, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129, 300];
const ACTIVATIONS: [Activation; 6] = [
    Activation::None,
    Activation::QuickGelu,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::Silu,
    Activation::Relu,
];

/// A product with its parts, and what it must be.
struct Case {
    x: Tensor,
    weight: Weight,
    /// `x Wᵀ + b`, `[rows, n]`, matrices one behind the other.
    sums: Vec<Vec<f64>>,
}

fn case(device: &Device, n_rows: usize, (n, k): (usize, usize), gated: bool) -> Case {
    let dtype = device.compute_dtype();
    let mut random = Random((n_rows * 7 + n * 3 + k) as u64);
    let x = rounded(dtype, &[n_rows, k], &random.units(n_rows * k));
    let n_matrices = if gated { 2 } else { 1 };
    // Sums of about one, as in models: neither activations nor f16 are driven to their ends.
    let scale = 2.0 / (k as f32).sqrt();
    let stored: Vec<Tensor> = (0..n_matrices)
        .map(|_| random.units(n * k).iter().map(|value| value * scale).collect::<Vec<_>>())
        .map(|values| rounded(dtype, &[n, k], &values))
        .collect();
    let biases: Vec<Vec<f32>> = (0..n_matrices).map(|_| random.units(n)).collect();
    let biases: Vec<Vec<f32>> =
        biases.iter().map(|bias| widened(&rounded(dtype, &[n], bias))).collect();
    let matrices: Vec<Matrix<'_>> = stored
        .iter()
        .map(|rows| Matrix { dtype, n_rows: n, n_columns: k, bytes: rows.bytes().into() })
        .collect();
    let arrangement = if gated { Arrangement::Alternating } else { Arrangement::Stacked };
    let weight = Weight::pack(device, &matrices, &biases, arrangement).unwrap();
    let values: Vec<f64> = widened(&x).into_iter().map(f64::from).collect();
    let sums = stored.iter().zip(&biases).map(|(rows, bias)| {
        let rows: Vec<f64> = widened(rows).into_iter().map(f64::from).collect();
        let row = |x: &[f64]| -> Vec<f64> {
            let dot = |w: &[f64]| x.iter().zip(w).map(|(a, b)| a * b).sum::<f64>();
            rows.chunks(k).zip(bias).map(|(w, bias)| dot(w) + f64::from(*bias)).collect()
        };
        values.chunks(k).flat_map(row).collect()
    });
    let sums = sums.collect();
    Case { x: x.to_device(device).unwrap(), weight, sums }
}

fn apply(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::None => x,
        Activation::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
        Activation::Gelu => x * 0.5 * (1.0 + erf(x / 2_f64.sqrt())),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
        Activation::Silu | Activation::SwiGlu => x / (1.0 + (-x).exp()),
        Activation::Relu => x.max(0.0),
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

/// All ways that can compute a case.
fn ways(device: &Device, case: &Case) -> Vec<Way> {
    let dtype = device.compute_dtype();
    let halves = dtype != DType::F32 && case.weight.k().is_multiple_of(8);
    let mut ways = vec![Way::Plain];
    if halves && case.x.n_rows() <= SKINNY_ROWS_MAX {
        ways.push(Way::Skinny);
    }
    if halves || dtype == DType::F32 {
        ways.push(Way::Library);
    }
    ways
}

/// The result of one way, in `dtype`, onto ones.
fn product(device: &Device, case: &Case, way: Way, finish: Finish, dtype: DType) -> Vec<f32> {
    let columns = case.weight.n() / if finish.is_gated() { 2 } else { 1 };
    let shape = [case.x.n_rows(), columns];
    repeated(device, || {
        let mut y = match finish {
            Finish::Add => {
                let ones = vec![1.0_f32; shape[0] * shape[1]];
                Tensor::from_slice(&shape, &ones).to_device(device).unwrap()
            }
            Finish::Write(_) => Tensor::scratch_on(device, dtype, &shape).unwrap(),
        };
        run_as(way, device, (&case.x, &case.weight), &mut y, finish).unwrap();
        y
    })
}

fn expected(case: &Case, finish: Finish) -> Vec<f64> {
    match finish {
        Finish::Add => case.sums[0].iter().map(|sum| sum + 1.0).collect(),
        Finish::Write(Activation::SwiGlu) => {
            let pairs = case.sums[0].iter().zip(&case.sums[1]);
            pairs.map(|(gate, up)| apply(Activation::SwiGlu, *gate) * up).collect()
        }
        Finish::Write(activation) => {
            case.sums[0].iter().map(|&sum| apply(activation, sum)).collect()
        }
    }
}

fn check(device: &Device, case: &Case, finish: Finish, dtype: DType) {
    let expected = expected(case, finish);
    for way in ways(device, case) {
        let size = (case.x.n_rows(), case.weight.n(), case.weight.k());
        let what = format!("{size:?} {way:?} {finish:?} in {}", device.compute_dtype().name());
        // Sums in f32 keep f32's precision also where operands are halves.
        assert_near(dtype, &product(device, case, way, finish, dtype), &expected, &what);
    }
}

#[test]
fn cuda_products_are_right_in_every_way() {
    for device in gpus() {
        for &size in SIZES {
            for &n_rows in ROWS {
                let case = case(&device, n_rows, size, false);
                check(&device, &case, Finish::Write(Activation::None), device.compute_dtype());
                check(&device, &case, Finish::Write(Activation::None), DType::F32);
                check(&device, &case, Finish::Add, DType::F32);
            }
        }
    }
}

#[test]
fn cuda_activations_are_right_in_every_way() {
    for device in gpus() {
        for size in [(16, 8), (48, 72), (96, 33)] {
            for n_rows in [1, 13, 64, 65] {
                let plain = case(&device, n_rows, size, false);
                for activation in ACTIVATIONS {
                    check(&device, &plain, Finish::Write(activation), device.compute_dtype());
                }
                let gated = case(&device, n_rows, size, true);
                let finish = Finish::Write(Activation::SwiGlu);
                check(&device, &gated, finish, device.compute_dtype());
            }
        }
    }
}

/// The operations as models call them, and weights without a bias.
#[test]
fn cuda_operations_choose_a_way() {
    for device in gpus() {
        let compute = device.compute_dtype();
        for n_rows in [0, 1, 64, 65] {
            let case = case(&device, n_rows, (80, 64), false);
            let got = linear(&device, &case.x, &case.weight, Activation::Silu).unwrap();
            let finish = Finish::Write(Activation::Silu);
            let got = widened(&got.to_host(&device).unwrap());
            assert_near(compute, &got, &expected(&case, finish), "linear");
            let got = linear_f32(&device, &case.x, &case.weight).unwrap();
            let got = widened(&got.to_host(&device).unwrap());
            assert_near(DType::F32, &got, &case.sums[0], "linear_f32");
            let ones = Tensor::from_slice(&[n_rows, 80], &vec![1.0_f32; n_rows * 80]);
            let mut y = ones.to_device(&device).unwrap();
            linear_add(&device, &case.x, &case.weight, &mut y).unwrap();
            let got = widened(&y.to_host(&device).unwrap());
            assert_near(DType::F32, &got, &expected(&case, Finish::Add), "linear_add");
        }
        let identity: Vec<f32> = (0..64).map(|i| f32::from(u8::from(i % 9 == 0))).collect();
        let identity = rounded(compute, &[8, 8], &identity);
        let matrix =
            Matrix { dtype: compute, n_rows: 8, n_columns: 8, bytes: identity.bytes().into() };
        let w = Weight::pack(&device, &[matrix], &[], Arrangement::Stacked).unwrap();
        for n_rows in [3, 70] {
            let x = rounded(compute, &[n_rows, 8], &Random(1).units(n_rows * 8));
            let y = linear(&device, &x.to_device(&device).unwrap(), &w, Activation::None).unwrap();
            assert_eq!(widened(&y.to_host(&device).unwrap()), widened(&x));
        }
    }
}

/// Few rows: the same bits alone, in any company, and in a thousand repetitions.
#[test]
fn cuda_bits_of_few_rows_depend_on_nothing_else() {
    for device in gpus() {
        let compute = device.compute_dtype();
        for size in [(96, 72), (3584, 512), (512, 4096), (40, 33)] {
            let all = case(&device, SKINNY_ROWS_MAX, size, false);
            let host = all.x.to_host(&device).unwrap();
            let values = widened(&host);
            let run = |n_rows: usize| {
                let x = rounded(compute, &[n_rows, size.1], &values[..n_rows * size.1]);
                let x = x.to_device(&device).unwrap();
                poison(&device);
                let y = linear_f32(&device, &x, &all.weight).unwrap();
                widened(&y.to_host(&device).unwrap())
            };
            let together = run(SKINNY_ROWS_MAX);
            for n_rows in 1..SKINNY_ROWS_MAX {
                assert!(run(n_rows) == together[..n_rows * size.0], "{size:?}: {n_rows} rows");
            }
            let first = linear_f32(&device, &all.x, &all.weight).unwrap().to_host(&device).unwrap();
            for _ in 0..1000 {
                let again = linear_f32(&device, &all.x, &all.weight).unwrap();
                assert!(again.to_host(&device).unwrap().bytes() == first.bytes(), "{size:?}");
            }
        }
    }
}

/// Every plan of every kernel gives the right result, and plans with the same slices the same bits.
#[test]
fn cuda_plans_agree() {
    for device in gpus().into_iter().filter(|device| device.compute_dtype() != DType::F32) {
        let Device::Cuda(cuda) = &device else { panic!("not a GPU") };
        let is_hopper = cuda.context().compute_capability() == (9, 0);
        let kernels: &[Kernel] =
            if is_hopper { &[Kernel::Warps, Kernel::Hopper] } else { &[Kernel::Warps] };
        for (n_rows, kernel) in
            [5, 20, 64].iter().flat_map(|n| kernels.iter().map(move |k| (*n, *k)))
        {
            let case = case(&device, n_rows, (208, 2080), false);
            let slices = [1, 2, 3, 5, 8, 12].into_iter().filter(|n| *n <= kernel.slices_max());
            for n_slices in slices {
                let mut bits: Option<Vec<f32>> = None;
                for n_teams in kernel.team_counts() {
                    let plan = Plan { kernel, n_teams, n_slices };
                    let got = planned(&device, cuda, &case, plan);
                    assert_near(DType::F32, &got, &case.sums[0], &format!("{n_rows} {plan:?}"));
                    assert!(bits.get_or_insert_with(|| got.clone()) == &got, "{plan:?}");
                }
            }
        }
    }
}

fn planned(device: &Device, cuda: &Cuda, case: &Case, plan: Plan) -> Vec<f32> {
    repeated(device, || {
        let shape = [case.x.n_rows(), case.weight.n()];
        let mut y = Tensor::scratch_on(device, DType::F32, &shape).unwrap();
        let (operands, finish) = ((&case.x, &case.weight), Finish::Write(Activation::None));
        linear_cuda_skinny::run_with(plan, cuda, operands, &mut y, finish).unwrap();
        y
    })
}

/// Products that follow each other at once, each with the result of the one before.
#[test]
fn cuda_products_wait_for_each_other() {
    for device in gpus() {
        let Device::Cuda(cuda) = &device else { panic!("not a GPU") };
        let case = case(&device, 4, (3584, 3584), false);
        let chain = |pause: bool| {
            let mut x = linear(&device, &case.x, &case.weight, Activation::None).unwrap();
            for _ in 0..40 {
                x = linear(&device, &x, &case.weight, Activation::Relu).unwrap();
                if pause {
                    cuda.stream().synchronize().unwrap();
                }
            }
            x.to_host(&device).unwrap()
        };
        let slow = chain(true);
        for _ in 0..20 {
            assert!(chain(false).bytes() == slow.bytes());
        }
    }
}

/// A product after a norm begins early, and waits before it reads or writes what the norm does.
#[test]
fn cuda_products_wait_for_norms() {
    const WIDTH: usize = 3584;
    for device in gpus() {
        let Device::Cuda(cuda) = &device else { panic!("not a GPU") };
        let case = case(&device, 4, (WIDTH, WIDTH), false);
        let ones = Tensor::from_slice(&[WIDTH], &[1.0; WIDTH]).to_device(&device).unwrap();
        let chain = |pause: bool| {
            let mut sums = linear_f32(&device, &case.x, &case.weight).unwrap();
            for _ in 0..40 {
                let x = rms_norm(&device, &sums, &ones, 1e-6).unwrap();
                linear_add(&device, &x, &case.weight, &mut sums).unwrap();
                if pause {
                    cuda.stream().synchronize().unwrap();
                }
            }
            sums.to_host(&device).unwrap()
        };
        let slow = chain(true);
        for _ in 0..20 {
            assert!(chain(false).bytes() == slow.bytes());
        }
    }
}

/// On a deterministic device the number of rows changes no bit, whatever it is.
#[test]
fn cuda_deterministic_products_do_not_see_the_batch() {
    for compute in COMPUTE {
        if cuda_device(compute).is_none() {
            return;
        }
        let options = CudaOptions { ordinal: 0, compute, deterministic: true };
        let device = Device::cuda(options).unwrap();
        for size in [(512, 256), (1024, 3584)] {
            let all = case(&device, 300, size, false);
            let values = widened(&all.x.to_host(&device).unwrap());
            let together = linear(&device, &all.x, &all.weight, Activation::Gelu).unwrap();
            let together = widened(&together.to_host(&device).unwrap());
            for n_rows in [1, 2, 8, 17, 64, 65, 128, 200, 299] {
                let x = rounded(compute, &[n_rows, size.1], &values[..n_rows * size.1]);
                let x = x.to_device(&device).unwrap();
                let y = linear(&device, &x, &all.weight, Activation::Gelu).unwrap();
                let y = widened(&y.to_host(&device).unwrap());
                assert!(y == together[..n_rows * size.0], "{size:?}: {n_rows} rows {compute:?}");
            }
        }
    }
}

/// What one process has chosen another takes over from a file, and gets the same bits.
#[test]
fn cuda_choices_travel() {
    let name = format!("cuda-gemm-choices-{}.json", std::process::id());
    let path = std::env::temp_dir().join(name);
    for device in gpus() {
        let Device::Cuda(cuda) = &device else { panic!("not a GPU") };
        let case = case(&device, 300, (512, 256), false);
        let first = linear_f32(&device, &case.x, &case.weight).unwrap();
        let first = first.to_host(&device).unwrap();
        let choices = cuda.gemm_choices();
        assert!(!choices.is_empty(), "an algorithm could not be said by its attributes");
        choices.save(&path).unwrap();
        let other = cuda_device(device.compute_dtype()).unwrap();
        let Device::Cuda(other_cuda) = &other else { panic!("not a GPU") };
        other_cuda.use_gemm_choices(GemmChoices::load(&path).unwrap());
        let second = linear_f32(&other, &case.x, &case.weight).unwrap();
        assert!(second.to_host(&other).unwrap().bytes() == first.bytes());
        assert_eq!(other_cuda.gemm_choices(), choices, "a choice was made again");
    }
    // Nothing was written where there is no GPU.
    let _ = std::fs::remove_file(&path);
}

/// A recorded product gives the bits of one that is run.
#[test]
fn cuda_products_can_be_recorded() {
    for device in gpus() {
        let Device::Cuda(cuda) = &device else { panic!("not a GPU") };
        for n_rows in [3, 200] {
            let case = case(&device, n_rows, (512, 1024), true);
            let run = |y: &mut Tensor| {
                let finish = Finish::Write(Activation::SwiGlu);
                super::run(&device, (&case.x, &case.weight), y, finish)
            };
            let shape = [n_rows, 512];
            let mut y = Tensor::scratch_on(&device, device.compute_dtype(), &shape).unwrap();
            run(&mut y).unwrap();
            let first = y.to_host(&device).unwrap();
            let graph = cuda.stream().capture(|| run(&mut y)).unwrap();
            for _ in 0..3 {
                cuda.fill(&mut y, 0xFF).unwrap();
                graph.launch(cuda.stream()).unwrap();
                assert!(y.to_host(&device).unwrap().bytes() == first.bytes());
            }
        }
    }
}
