//! Rows of an embedding table.
//!
//! Contract. The table is a [`Weight`] `[vocabulary, n]` (often the head's too); `tokens`,
//! u32, index its rows; result f32 `[tokens, n]`, widened exactly.

use super::misuse;
use super::weight::Weight;
use crate::cuda::{Arg, Cuda, Grid};
use crate::device::Device;
use crate::dtype::DType;
use crate::tensor::Tensor;
use types::Result;

/// The rows of `tokens`.
///
/// Errors: a token outside the table. On a GPU, where the host does not see them, such tokens
/// bring zeros.
pub fn embedding(device: &Device, table: &Weight, tokens: &Tensor) -> Result<Tensor> {
    if tokens.dtype() != DType::U32 {
        return Err(misuse("embedding", "tokens are numbers"));
    }
    match device {
        Device::Cpu(_) => run_cpu(table, tokens.as_slice()),
        Device::Cuda(cuda) => run_cuda(device, cuda, table, tokens),
    }
}

fn run_cpu(table: &Weight, tokens: &[u32]) -> Result<Tensor> {
    if tokens.iter().any(|&token| token as usize >= table.n()) {
        return Err(misuse("embedding", "a token outside the vocabulary"));
    }
    let mut rows = Tensor::scratch::<f32>(&[tokens.len(), table.k()]);
    for (row, &token) in rows.as_mut_slice::<f32>().chunks_exact_mut(table.k()).zip(tokens) {
        table.copy_row(token as usize, row);
    }
    Ok(rows)
}

/// Most threads of a block, which widens one row, and elements of a thread.
const ROW_THREADS_MAX: usize = 512;
const ELEMENTS_OF_THREAD: usize = 8;

fn run_cuda(device: &Device, cuda: &Cuda, table: &Weight, tokens: &Tensor) -> Result<Tensor> {
    let n_tokens = tokens.n_elements();
    let mut rows = Tensor::scratch_on(device, DType::F32, &[n_tokens, table.k()])?;
    let n_threads = table.k().div_ceil(ELEMENTS_OF_THREAD).next_multiple_of(32);
    let grid = Grid::line(n_tokens, n_threads.clamp(32, ROW_THREADS_MAX) as u32);
    let name = format!("embedding_{}", table.dtype().name());
    let (n_rows, n) = (Arg::U32(table.n() as u32), Arg::I32(table.k() as i32));
    let table = Arg::Address(table.address());
    cuda.launch(
        "rows",
        &name,
        grid,
        &[table, Arg::tensor(tokens), Arg::mut_tensor(&mut rows), n_rows, n],
    )?;
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::cases::{Random, pack_one};
    use crate::ops::gpu_cases::{gpus, repeated};
    use crate::ops::weight::{Arrangement, Matrix};

    #[test]
    fn rows_are_those_of_the_matrix() {
        let device = Device::all_cpus();
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            let (bytes, values) = Random(7).stored(dtype, 37 * 5);
            let table = pack_one(dtype, (37, 5), &bytes);
            let tokens = [0_u32, 36, 16, 15, 36];
            let ids = Tensor::from_slice(&[5], &tokens);
            let rows = embedding(&device, &table, &ids).unwrap();
            for (idx, &token) in tokens.iter().enumerate() {
                assert_eq!(rows.row(idx), &values[token as usize * 5..][..5]);
            }
            assert!(embedding(&device, &table, &Tensor::from_slice(&[1], &[37_u32])).is_err());
        }
        let (bytes, _) = Random(7).stored(DType::F32, 37 * 5);
        let table = pack_one(DType::F32, (37, 5), &bytes);
        assert!(embedding(&device, &table, &Tensor::zeros::<f32>(&[1])).is_err());
    }

    /// Rows and columns of a table: around groups and warps, real widths.
    const CUDA_CASES: &[(usize, usize)] =
        &[(1, 1), (37, 5), (16, 32), (33, 127), (100, 1280), (48, 3584), (20, 4100)];

    #[test]
    fn cuda_rows_are_those_of_the_matrix_and_zeros_outside() {
        for device in gpus() {
            let dtype = device.compute_dtype();
            for &(n_rows, n_columns) in CUDA_CASES {
                let (bytes, values) = Random(n_columns as u64).stored(dtype, n_rows * n_columns);
                let matrix = Matrix { dtype, n_rows, n_columns, bytes: bytes[..].into() };
                let table = Weight::pack(&device, &[matrix], &[], Arrangement::Stacked).unwrap();
                let mut tokens: Vec<u32> = (0..50).map(|i| (i * 7 % n_rows) as u32).collect();
                tokens.extend([n_rows as u32, u32::MAX]);
                let ids = Tensor::from_slice(&[52], &tokens).to_device(&device).unwrap();
                let got = repeated(&device, || embedding(&device, &table, &ids).unwrap());
                let row = |token: &u32| match values.get(*token as usize * n_columns..) {
                    Some(rest) if !rest.is_empty() => rest[..n_columns].to_vec(),
                    _ => vec![0.0; n_columns],
                };
                let expected: Vec<f32> = tokens.iter().flat_map(row).collect();
                assert_eq!(got, expected, "{} {n_rows} x {n_columns}", dtype.name());
            }
        }
    }
}
