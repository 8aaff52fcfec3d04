//! Weights in a GPU's memory: rows `[n, k]` in its compute type, and their bias.

use super::linear_cuda_skinny::{Plan, Problem};
use super::misuse;
use super::weight::{Matrix, Packed, Source};
use crate::cuda::{Cuda, Upload};
use crate::dtype::DType;
use crate::tensor::Tensor;
use half::{bf16, f16};
use types::Result;

/// A weight of a GPU.
#[derive(Debug)]
pub(in crate::ops) struct GpuWeight {
    /// `[n, k]` in the compute type.
    pub(in crate::ops) rows: Tensor,
    /// f32 `[n]`, where there is one.
    pub(in crate::ops) bias: Option<Tensor>,
    /// The bias in the compute type: the library adds it in the type of its result.
    pub(in crate::ops) narrow_bias: Option<Tensor>,
    /// How its products with few rows are spread.
    pub(in crate::ops) plan: Plan,
}

impl GpuWeight {
    pub(super) fn upload(cuda: &Cuda, source: &Source<'_>) -> Result<Self> {
        let compute = cuda.options().compute;
        let (n, k) = (source.n, source.k);
        let whole_numbers = |matrix: &Matrix<'_>| matches!(matrix.dtype, DType::U8 | DType::U32);
        if source.matrices.iter().any(whole_numbers) {
            return Err(misuse("pack", "weights of whole numbers"));
        }
        let rows = cuda.weight_memory(compute, &[n, k])?;
        let fill = |row: usize, to: &mut [u8]| {
            let (matrix, row) = source.row(row);
            copy_row(&source.matrices[matrix], row, compute, to);
        };
        let unit_bytes = k * compute.n_bytes();
        cuda.send(rows.address(), &Upload { unit_bytes, n_units: n, fill: &fill })?;
        let bias = || -> Vec<f32> {
            let value = |(matrix, row): (usize, usize)| source.biases[matrix][row];
            (0..n).map(|row| value(source.row(row))).collect()
        };
        let bias = if source.biases.is_empty() { None } else { Some(bias()) };
        let upload = |dtype| bias.as_deref().map(|bias| upload_bias(cuda, bias, dtype)).transpose();
        let narrow_bias = if compute == DType::F32 { None } else { upload(compute)? };
        let plan = Problem::of(cuda, (n, k)).plan();
        Ok(Self { rows, bias: upload(DType::F32)?, narrow_bias, plan })
    }

    /// The bias in type `dtype`, which is f32 or the compute type.
    pub(super) fn bias_in(&self, dtype: DType) -> Option<&Tensor> {
        if dtype == DType::F32 { self.bias.as_ref() } else { self.narrow_bias.as_ref() }
    }
}

fn upload_bias(cuda: &Cuda, bias: &[f32], dtype: DType) -> Result<Tensor> {
    let tensor = cuda.weight_memory(dtype, &[bias.len()])?;
    let fill = |idx: usize, to: &mut [u8]| write(bias[idx], dtype, to);
    let upload = Upload { unit_bytes: dtype.n_bytes(), n_units: bias.len(), fill: &fill };
    cuda.send(tensor.address(), &upload)?;
    Ok(tensor)
}

/// Row `row` of a matrix, in type `dtype`.
fn copy_row(matrix: &Matrix<'_>, row: usize, dtype: DType, to: &mut [u8]) {
    let n_bytes = matrix.dtype.n_bytes();
    let from = matrix.row(row);
    if matrix.dtype == dtype {
        return to.copy_from_slice(from);
    }
    let elements = from.chunks_exact(n_bytes).zip(to.chunks_exact_mut(dtype.n_bytes()));
    elements.for_each(|(from, to)| write(f32::read(matrix.dtype, from), dtype, to));
}

/// One element, rounded to the nearest.
fn write(value: f32, dtype: DType, to: &mut [u8]) {
    match dtype {
        DType::F32 => to.copy_from_slice(&value.to_le_bytes()),
        DType::Bf16 => to.copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
        DType::F16 => to.copy_from_slice(&f16::from_f32(value).to_le_bytes()),
        DType::U8 | DType::U32 => unreachable!("weights are never whole numbers"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::cases::Random;
    use crate::ops::gpu_cases::{gpus, widened};
    use crate::ops::weight::{Arrangement, Weight};
    use crate::{DType, Device};

    fn matrix((n_rows, n_columns): (usize, usize), dtype: DType, bytes: &[u8]) -> Matrix<'_> {
        Matrix { dtype, n_rows, n_columns, bytes: bytes.into() }
    }

    /// The nearest value of a type.
    fn nearest(dtype: DType, value: f32) -> f32 {
        match dtype {
            DType::Bf16 => bf16::from_f32(value).to_f32(),
            DType::F16 => f16::from_f32(value).to_f32(),
            DType::F32 | DType::U8 | DType::U32 => value,
        }
    }

    /// Rows of a weight, from the GPU.
    fn rows_of(device: &Device, weight: &Weight) -> Vec<f32> {
        widened(&weight.gpu().rows.to_host(device).unwrap())
    }

    #[test]
    fn cuda_weights_are_the_rows_of_their_matrices() {
        for device in gpus() {
            let compute = device.compute_dtype();
            // The last pair is larger than a piece of the staging.
            for size in [(16, 8), (48, 31), (32, 3), (9008, 2048)] {
                let mut random = Random(size.0 as u64);
                let len = size.0 * size.1;
                let first = random.stored(DType::Bf16, len);
                let second = random.stored(DType::F32, len);
                let matrices =
                    [matrix(size, DType::Bf16, &first.0), matrix(size, DType::F32, &second.0)];
                for arrangement in [Arrangement::Stacked, Arrangement::Alternating] {
                    let weight = Weight::pack(&device, &matrices, &[], arrangement).unwrap();
                    assert_eq!((weight.n(), weight.k()), (2 * size.0, size.1));
                    assert_eq!(weight.dtype(), compute);
                    for (idx, row) in rows_of(&device, &weight).chunks(size.1).enumerate() {
                        let (is_first, from) = match arrangement {
                            Arrangement::Stacked => (idx < size.0, idx % size.0),
                            Arrangement::Alternating => (idx % 32 < 16, idx / 32 * 16 + idx % 16),
                        };
                        let values = if is_first { &first.1 } else { &second.1 };
                        let expected = &values[from * size.1..][..size.1];
                        let same = row.iter().zip(expected);
                        let same = same.filter(|(a, b)| **a == nearest(compute, **b)).count();
                        assert_eq!(same, size.1, "{size:?} {arrangement:?} row {idx}");
                    }
                }
            }
        }
    }

    #[test]
    fn cuda_biases_follow_their_rows() {
        for device in gpus() {
            let mut random = Random(3);
            let stored = random.stored(DType::F16, 32 * 8);
            let matrices = [matrix((32, 8), DType::F16, &stored.0); 2];
            let biases = [random.units(32), random.units(32)];
            let weight =
                Weight::pack(&device, &matrices, &biases, Arrangement::Alternating).unwrap();
            let expected: Vec<f32> = [0, 16]
                .into_iter()
                .flat_map(|row| [&biases[0][row..row + 16], &biases[1][row..row + 16]].concat())
                .collect();
            let on_gpu = |bias: &Tensor| widened(&bias.to_host(&device).unwrap());
            assert_eq!(on_gpu(weight.gpu().bias.as_ref().unwrap()), expected);
            let compute = device.compute_dtype();
            let narrow: Vec<f32> = expected.iter().map(|&value| nearest(compute, value)).collect();
            assert_eq!(on_gpu(weight.gpu().bias_in(compute).unwrap()), narrow);
        }
    }
}
