//! What the tests of operations on a GPU share: devices, numbers in every type, tolerances.

use super::cases::cuda_device;
use crate::dtype::DType;
use crate::tensor::Tensor;
use crate::{Arena, Device};
use half::{bf16, f16};

/// What GPUs compute in.
pub(super) const COMPUTE: [DType; 3] = [DType::F32, DType::Bf16, DType::F16];

/// A GPU once for every compute type; none where there is no GPU.
pub(super) fn gpus() -> Vec<Device> {
    COMPUTE.into_iter().map_while(cuda_device).collect()
}

/// Runs of a case; `TRIPTYCH_TEST_REPEATS` asks for another number.
const N_RUNS: usize = 2;

/// The result of `run`, widened, after checking that it has the same bits each time; whatever is
/// left unwritten is NaN, which no comparison takes for a result.
pub(super) fn repeated(device: &Device, mut run: impl FnMut() -> Tensor) -> Vec<f32> {
    let mut once = || {
        poison(device);
        run().to_host(device).unwrap()
    };
    let first = once();
    for _ in 1..n_runs() {
        assert_eq!(first.bytes(), once().bytes(), "two runs with other bits");
    }
    widened(&first)
}

fn n_runs() -> usize {
    let asked = std::env::var("TRIPTYCH_TEST_REPEATS").ok();
    asked.map_or(N_RUNS, |n| n.parse().expect("TRIPTYCH_TEST_REPEATS is a number"))
}

/// Fills free scratch memory with NaN.
pub(super) fn poison(device: &Device) {
    if let Device::Cuda(cuda) = device {
        cuda.poison_scratch().unwrap();
    }
}

/// All bytes of an arena.
pub(super) fn arena_bytes(device: &Device, arena: &Arena) -> Vec<u8> {
    let mut bytes = vec![0; arena.n_bytes()];
    match device {
        Device::Cpu(_) => {
            // SAFETY: the arena has as many bytes, and nobody writes them while a test looks.
            let all = unsafe { std::slice::from_raw_parts(arena.base(), arena.n_bytes()) };
            bytes.copy_from_slice(all);
        }
        Device::Cuda(cuda) => cuda.download(arena.base() as u64, &mut bytes).unwrap(),
    }
    bytes
}

/// `values` rounded to `dtype`, on the host.
pub(super) fn rounded(dtype: DType, shape: &[usize], values: &[f32]) -> Tensor {
    match dtype {
        DType::F32 => Tensor::from_slice(shape, values),
        DType::Bf16 => Tensor::from_slice(
            shape,
            &values.iter().map(|&v| bf16::from_f32(v)).collect::<Vec<_>>(),
        ),
        DType::F16 => {
            Tensor::from_slice(shape, &values.iter().map(|&v| f16::from_f32(v)).collect::<Vec<_>>())
        }
        DType::U8 | DType::U32 => panic!("numbers of tests are floats"),
    }
}

/// The values of a tensor on the host, exactly.
pub(super) fn widened(x: &Tensor) -> Vec<f32> {
    match x.dtype() {
        DType::F32 => x.as_f32().to_vec(),
        DType::Bf16 => x.as_slice::<bf16>().iter().map(|value| value.to_f32()).collect(),
        DType::F16 => x.as_slice::<f16>().iter().map(|value| value.to_f32()).collect(),
        DType::U8 => x.as_slice::<u8>().iter().map(|&value| f32::from(value)).collect(),
        DType::U32 => panic!("numbers of tests are floats"),
    }
}

/// Compares with a reference in f64: the norm of the difference, and the largest difference.
pub(super) fn assert_near(dtype: DType, got: &[f32], expected: &[f64], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let (norm_max, largest_max) = match dtype {
        DType::F32 => (1e-5, 3e-5),
        DType::Bf16 => (5e-3, 2e-2),
        DType::F16 => (1e-3, 5e-3),
        DType::U8 | DType::U32 => panic!("results are floats"),
    };
    let difference = |(got, expected): (&f32, &f64)| f64::from(*got) - expected;
    let pairs = || got.iter().zip(expected);
    let norm: f64 = expected.iter().map(|value| value * value).sum::<f64>().sqrt();
    let wrong: f64 = pairs().map(difference).map(|d| d * d).sum::<f64>().sqrt();
    // An absolute part as well: what should be zero may be rounding error.
    let is_near = wrong <= norm_max * norm + f64::from(f32::EPSILON) * 16.0;
    assert!(is_near, "{what} ({}): off by {wrong}, norm {norm}", dtype.name());
    for (idx, pair) in pairs().enumerate() {
        let bound = largest_max * (1.0 + pair.1.abs());
        assert!(difference(pair).abs() <= bound, "{what} [{idx}]: {}, not {}", pair.0, pair.1);
    }
}
