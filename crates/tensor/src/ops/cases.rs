//! What the tests of all operations share: numbers, tolerances, and the pools they run on.

use super::weight::{Arrangement, Matrix, Weight};
use crate::Device;
use crate::cuda::CudaOptions;
use crate::dtype::DType;
use crate::simd::Isa;
use crate::tensor::Tensor;
use crate::threads::Threads;
use half::{bf16, f16};
use std::num::NonZeroUsize;

/// A generator of test numbers.
pub(super) struct Random(pub(super) u64);

impl Random {
    /// Uniform in -1..1.
    pub(super) fn unit(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// `n` numbers in -1..1.
    pub(super) fn units(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.unit()).collect()
    }

    /// An f32 tensor of numbers in -1..1.
    pub(super) fn tensor(&mut self, shape: &[usize]) -> Tensor {
        Tensor::from_slice(shape, &self.units(shape.iter().product()))
    }

    /// `n` numbers as a checkpoint stores them, and their exact values.
    pub(super) fn stored(&mut self, dtype: DType, n: usize) -> (Vec<u8>, Vec<f32>) {
        let values = self.units(n);
        match dtype {
            DType::F32 => (values.iter().flat_map(|v| v.to_le_bytes()).collect(), values),
            DType::Bf16 => {
                let values: Vec<bf16> = values.into_iter().map(bf16::from_f32).collect();
                let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                (bytes, values.into_iter().map(bf16::to_f32).collect())
            }
            DType::F16 => {
                let values: Vec<f16> = values.into_iter().map(f16::from_f32).collect();
                let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                (bytes, values.into_iter().map(f16::to_f32).collect())
            }
            DType::U8 | DType::U32 => panic!("no weights of whole numbers"),
        }
    }
}

/// The GPU to test on, computing in `compute`, where there is one.
pub(super) fn cuda_device(compute: DType) -> Option<Device> {
    crate::testing::gpu(CudaOptions { ordinal: 0, compute, deterministic: false })
}

/// A weight of one matrix without bias.
pub(super) fn pack_one(dtype: DType, (n_rows, n_columns): (usize, usize), bytes: &[u8]) -> Weight {
    let matrix = Matrix { dtype, n_rows, n_columns, bytes: bytes.into() };
    Weight::pack(&Device::all_cpus(), &[matrix], &[], Arrangement::Stacked).unwrap()
}

/// Every instruction set with one thread, and the best one with two.
pub(super) fn everywhere() -> Vec<(Threads, Isa)> {
    let pool = |n| Threads::start(NonZeroUsize::new(n).unwrap());
    let mut all: Vec<(Threads, Isa)> = Isa::all().into_iter().map(|isa| (pool(1), isa)).collect();
    all.push((pool(2), Isa::best()));
    all
}

/// The bits of all elements.
pub(super) fn bits(x: &Tensor) -> Vec<u32> {
    x.as_f32().iter().map(|value| value.to_bits()).collect()
}

/// Compares with a reference in f64: absolute plus relative tolerance.
pub(super) fn assert_close(got: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (idx, (&got, expected)) in got.iter().zip(expected).enumerate() {
        let bound = tolerance * (1.0 + expected.abs());
        assert!(
            (f64::from(got) - expected).abs() <= bound,
            "{what} [{idx}]: {got}, not {expected}"
        );
    }
}
