//! Distances between results and sums in f64.

use half::{bf16, f16};
use tensor::{DType, Device, Tensor};
use types::{Error, Result};

/// Largest distances, as parts of the length of what is expected.
const ERROR_MAX_F32: f64 = 1e-4;
const ERROR_MAX_HALF: f64 = 1e-2;

/// All elements of a tensor, widened.
///
/// Errors: the device fails.
pub(crate) fn widened(device: &Device, tensor: &Tensor) -> Result<Vec<f64>> {
    let host = tensor.to_host(device)?;
    Ok(match host.dtype() {
        DType::F32 => host.as_f32().iter().map(|&value| f64::from(value)).collect(),
        DType::Bf16 => host.as_slice::<bf16>().iter().map(|value| value.to_f64()).collect(),
        DType::F16 => host.as_slice::<f16>().iter().map(|value| value.to_f64()).collect(),
        DType::U8 | DType::U32 => return Err(Error::internal("whole numbers were to be compared")),
    })
}

/// The distance between pairs of (expected, found), as a part of the length of what is expected.
/// Something that is not a number is infinitely far.
pub(crate) fn distance(pairs: impl IntoIterator<Item = (f64, f64)>) -> f64 {
    let (mut off, mut length) = (0.0, 0.0);
    for (expected, found) in pairs {
        off += (expected - found).powi(2);
        length += expected * expected;
    }
    let distance = (off / f64::max(length, f64::MIN_POSITIVE)).sqrt();
    if distance.is_nan() { f64::INFINITY } else { distance }
}

/// Errors: the distance is too large for the type.
pub(crate) fn close_enough(name: &str, distance: f64, dtype: DType) -> Result<()> {
    let most = if dtype == DType::F32 { ERROR_MAX_F32 } else { ERROR_MAX_HALF };
    if distance <= most {
        return Ok(());
    }
    Err(Error::internal(format!(
        "{name} is wrong: its distance is {distance:.1e}, over {most:.0e}"
    )))
}

/// Up to `n` of `0..of`, the first and the last among them.
pub(crate) fn sampled(n: usize, of: usize) -> Vec<usize> {
    let n = n.min(of);
    (0..n).map(|idx| idx * (of - 1) / (n - 1).max(1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_relative_and_never_not_a_number() {
        assert_eq!(distance([(3.0, 3.0), (4.0, 4.0)]), 0.0);
        assert!((distance([(3.0, 3.0), (4.0, 4.5)]) - 0.1).abs() < 1e-12);
        assert_eq!(distance([(1.0, f64::NAN)]), f64::INFINITY);
        assert!(close_enough("it", f64::INFINITY, DType::Bf16).is_err());
        assert!(close_enough("it", 5e-3, DType::Bf16).is_ok());
        assert!(close_enough("it", 5e-3, DType::F32).is_err());
    }

    #[test]
    fn samples_reach_from_the_first_to_the_last() {
        let samples = [(3, 9), (1, 9), (5, 2), (2, 1)].map(|(n, of)| sampled(n, of));
        assert_eq!(samples, [vec![0, 4, 8], vec![0], vec![0, 1], vec![0]]);
    }
}
