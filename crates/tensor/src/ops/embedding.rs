//! Rows of an embedding table.
//!
//! Contract. The table is a [`Weight`] `[vocabulary, n]` (often the head's too); `tokens`,
//! u32, index its rows; result f32 `[tokens, n]`, widened exactly.

use super::misuse;
use super::weight::Weight;
use crate::device::Device;
use crate::tensor::Tensor;
use types::Result;

/// The rows of `tokens`.
///
/// Errors: a token outside the table, where the host can see it.
pub fn embedding(device: &Device, table: &Weight, tokens: &Tensor) -> Result<Tensor> {
    match device {
        Device::Cpu(_) => run_cpu(table, tokens.as_slice()),
        Device::Cuda(_) => Err(misuse("embedding", "not on a GPU yet")),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use crate::ops::cases::{Random, pack_one};

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
    }
}
