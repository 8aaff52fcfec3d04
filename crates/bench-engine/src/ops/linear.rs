//! Products with every weight of the model.

use super::check::{distance, sampled, widened};
use super::timer::seconds;
use super::{Case, Sizes, Timed};
use crate::ceilings::{activations, random_bf16};
use crate::shapes::Linear;
use half::bf16;
use tensor::ops::{Activation, Arrangement, Matrix, Weight, linear, linear_f32};
use tensor::{DType, Device};
use types::Result;

/// Rows of steps, and those of the tower's inputs: pictures of 336², 672² and 1008².
const ROWS: &[usize] = &[1, 8, 64, 256, 2048];
const PATCHES: &[usize] = &[576, 2304, 5184];
/// No step wants the logits of more rows.
const LOGIT_ROWS_MAX: usize = 256;
/// Copies of a weight together are as large, where it is a GPU's: far more than its caches hold.
const OPERAND_BYTES: usize = 256 << 20;
const COPIES_MAX: usize = 64;
/// Weights are this much smaller than what they multiply, so that sums stay near 1.
const WEIGHT_SCALE: f32 = 1.0 / 64.0;
/// Rows and columns whose sums are checked.
const CHECKED: (usize, usize) = (3, 64);

pub(super) fn cases(sizes: &Sizes<'_>) -> Vec<Case> {
    let text = &sizes.shapes.text;
    let mut cases = Vec::new();
    for weight in text.linears() {
        cases.extend(ROWS.iter().map(|&n_rows| case(weight, n_rows, sizes)));
    }
    let logits = ROWS.iter().filter(|&&n_rows| n_rows <= LOGIT_ROWS_MAX);
    cases.extend(logits.map(|&n_rows| case(text.head(), n_rows, sizes)));
    let Some(tower) = &sizes.shapes.tower else { return cases };
    for weight in tower.patch_linears() {
        cases.extend(PATCHES.iter().map(|&n_rows| case(weight, n_rows, sizes)));
    }
    for weight in tower.token_linears() {
        let rows = PATCHES.iter().map(|n_patches| n_patches / tower.n_merged);
        cases.extend(rows.map(|n_rows| case(weight, n_rows, sizes)));
    }
    cases
}

fn case(weight: Linear, n_rows: usize, sizes: &Sizes<'_>) -> Case {
    let Linear { name, n, k, is_gated, .. } = weight;
    let (rows, n_size, k_size) = (n_rows as f64, n as f64, k as f64);
    let n_written = if is_gated { n_size / 2.0 } else { n_size };
    Case {
        name: format!("linear {name} {n}x{k} rows {n_rows}"),
        n_bytes: n_size * k_size * sizes.shapes.weight_dtype.n_bytes() as f64
            + rows * (k_size + n_written) * sizes.n_bytes,
        n_flop: 2.0 * rows * n_size * k_size,
        run: Box::new(move |device| run(device, weight, n_rows)),
    }
}

fn run(device: &Device, weight: Linear, n_rows: usize) -> Result<Timed> {
    let Linear { n, k, is_gated, .. } = weight;
    let elements: Vec<bf16> = random_bf16(n * k, 3)
        .into_iter()
        .map(|value| bf16::from_f32(value.to_f32() * WEIGHT_SCALE))
        .collect();
    let n_copies = match device {
        Device::Cpu(_) => 1,
        Device::Cuda(_) => (OPERAND_BYTES / (n * k * 2)).clamp(1, COPIES_MAX),
    };
    let pack = |_| pack(device, &elements, (n, k), is_gated);
    let weights: Vec<Weight> = (0..n_copies).map(pack).collect::<Result<_>>()?;
    let x = activations(device, &[n_rows, k], 5)?;
    let activation = if is_gated { Activation::SwiGlu } else { Activation::None };
    let apply = |idx: usize| match weight.name {
        "lm_head" => linear_f32(device, &x, &weights[idx]),
        _ => linear(device, &x, &weights[idx], activation),
    };
    let found = widened(device, &apply(n_copies - 1)?)?;
    let x_values = widened(device, &x)?;
    let error = error((&x_values, n_rows), (&elements, n, k), &found, is_gated);
    Ok(Timed { error, seconds: seconds(device, n_copies, |idx| apply(idx).map(drop))? })
}

fn pack(
    device: &Device,
    elements: &[bf16],
    (n, k): (usize, usize),
    is_gated: bool,
) -> Result<Weight> {
    let (n_rows, arrangement) = match is_gated {
        true => (n / 2, Arrangement::Alternating),
        false => (n, Arrangement::Stacked),
    };
    let matrices: Vec<Matrix<'_>> = elements
        .chunks(n_rows * k)
        .map(|part| {
            let bytes = bytemuck::cast_slice(part);
            Matrix { dtype: DType::Bf16, n_rows, n_columns: k, bytes: bytes.into() }
        })
        .collect();
    Weight::pack(device, &matrices, &[], arrangement)
}

fn error(
    (x, n_rows): (&[f64], usize),
    (elements, n, k): (&[bf16], usize, usize),
    found: &[f64],
    is_gated: bool,
) -> f64 {
    let n_columns = if is_gated { n / 2 } else { n };
    let columns = sampled(CHECKED.1, n_columns);
    let product = |row: usize, column: usize| -> f64 {
        let weights = &elements[column * k..(column + 1) * k];
        let x = &x[row * k..(row + 1) * k];
        x.iter().zip(weights).map(|(x, weight)| x * weight.to_f64()).sum()
    };
    let expected = |row, column| match is_gated {
        false => product(row, column),
        true => {
            let gate = product(row, column);
            gate / (1.0 + (-gate).exp()) * product(row, column + n_columns)
        }
    };
    distance(
        sampled(CHECKED.0, n_rows)
            .into_iter()
            .flat_map(|row| columns.iter().map(move |&column| (row, column)))
            .map(|(row, column)| (expected(row, column), found[row * n_columns + column])),
    )
}
