//! What the memory and the arithmetic of a device allow, measured now: clocks and power move, so a
//! figure of another day says little.

use crate::statistics::median;
use crate::{ceilings_cpu, ceilings_cuda};
use half::bf16;
use std::time::{Duration, Instant};
use tensor::ops::{Activation, Arrangement, Matrix, Weight, cast, linear};
use tensor::{DType, Device, Tensor};
use types::Result;

/// How long a ceiling is measured, and in how many parts, of which the median counts.
const PART_TIME: Duration = Duration::from_millis(60);
const N_PARTS: usize = 5;
/// Sides of the square products: a GPU needs large ones, a processor is full with less.
const SIDES_CUDA: &[usize] = &[4096, 8192];
const SIDES_CPU: &[usize] = &[1024, 2048];

/// The ceilings of a device.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ceilings {
    /// Bytes a second that can be read.
    pub(crate) read_bytes_per_s: f64,
    /// Bytes read and bytes written a second, together, in a copy.
    pub(crate) copy_bytes_per_s: f64,
    /// Side and FLOP a second of square products.
    pub(crate) products: Vec<(usize, f64)>,
}

impl Ceilings {
    /// Errors: the device has no memory left, or fails.
    pub(crate) fn measure(device: &Device) -> Result<Self> {
        let ((read_bytes_per_s, copy_bytes_per_s), sides) = match device {
            Device::Cpu(threads) => (ceilings_cpu::memory(threads.n_threads()), SIDES_CPU),
            Device::Cuda(cuda) => (ceilings_cuda::memory(cuda)?, SIDES_CUDA),
        };
        let product = |&side: &usize| Ok((side, product(device, side)?));
        let products = sides.iter().map(product).collect::<Result<_>>()?;
        Ok(Self { read_bytes_per_s, copy_bytes_per_s, products })
    }

    /// FLOP a second of the best product.
    pub(crate) fn flop_per_s(&self) -> f64 {
        self.products.iter().map(|(_, rate)| *rate).fold(0.0, f64::max)
    }
}

/// Seconds of one `run`, of which as many are given at a time as fill the time; the median.
pub(crate) fn seconds(device: &Device, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut part = |n: usize| {
        let started = Instant::now();
        (0..n).try_for_each(|_| run())?;
        device.synchronize()?;
        Ok(started.elapsed().as_secs_f64() / n as f64)
    };
    part(1)?;
    let n = (PART_TIME.as_secs_f64() / part(2)?).clamp(1.0, 1e5) as usize;
    let parts: Vec<f64> = (0..N_PARTS).map(|_| part(n)).collect::<Result<_>>()?;
    Ok(median(&parts))
}

/// FLOP a second of a square product in the compute type, through the operation that steps use.
fn product(device: &Device, side: usize) -> Result<f64> {
    let weight = random_bf16(side * side, 1);
    let bytes = bytemuck::cast_slice(&weight);
    let matrix = Matrix { dtype: DType::Bf16, n_rows: side, n_columns: side, bytes: bytes.into() };
    let weight = Weight::pack(device, &[matrix], &[], Arrangement::Stacked)?;
    let x = activations(device, &[side, side], 2)?;
    let run = || linear(device, &x, &weight, Activation::None).map(drop);
    Ok(2.0 * (side as f64).powi(3) / seconds(device, run)?)
}

/// Random numbers in ±1 as the compute type, on the device.
pub(crate) fn activations(device: &Device, shape: &[usize], seed: u64) -> Result<Tensor> {
    let elements: Vec<f32> =
        random_bf16(shape.iter().product(), seed).into_iter().map(bf16::to_f32).collect();
    let tensor = Tensor::from_slice(shape, &elements).to_device(device)?;
    cast(device, tensor, device.compute_dtype())
}

/// Random numbers in ±1 that every type of ours holds exactly.
pub(crate) fn random_bf16(n: usize, seed: u64) -> Vec<bf16> {
    let mut random = Random::new(seed);
    // Seven bits and a sign: exact in bf16.
    (0..n).map(|_| bf16::from_f32(f32::from((random.next() >> 56) as i8) / 128.0)).collect()
}

/// A generator of Marsaglia's xorshift family; not for secrets.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
