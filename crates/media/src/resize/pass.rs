//! The two passes over pixels, for any processor and for AVX2.

use super::taps::{Taps, WEIGHT_BITS};
use crate::image::CHANNELS;

/// Half a unit: what rounding adds before the fraction is cut off.
pub(super) const HALF: i32 = 1 << (WEIGHT_BITS - 1);

/// Bytes that one sweep of the row pass carries in registers.
const SWEEP: usize = 64;

/// Bytes behind a row that the column pass may read, to take whole registers.
pub(super) const PADDING: usize = 16;

/// Resamples every row of `rgb` `[any, width, 3]` to as many pixels as `taps` makes.
pub(super) fn columns(rgb: &[u8], width: usize, taps: &Taps) -> Vec<u8> {
    let mut out = vec![0; rgb.len() / (width * CHANNELS) * taps.len() * CHANNELS];
    if out.is_empty() {
        return out;
    }
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, it was just asked.
        unsafe { super::avx2::columns(rgb, width, taps, &mut out) };
        return out;
    }
    columns_any(rgb, width, taps, &mut out);
    out
}

/// Resamples the rows of `rgb` `[any, width, 3]` to as many rows as `taps` makes.
pub(super) fn rows(rgb: &[u8], width: usize, taps: &Taps) -> Vec<u8> {
    let mut out = vec![0; taps.len() * width * CHANNELS];
    if out.is_empty() {
        return out;
    }
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, it was just asked.
        unsafe { rows_avx2(rgb, width, taps, &mut out) };
        return out;
    }
    rows_any(rgb, width, taps, &mut out);
    out
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn rows_avx2(rgb: &[u8], width: usize, taps: &Taps, out: &mut [u8]) {
    rows_any(rgb, width, taps, out);
}

fn columns_any(rgb: &[u8], width: usize, taps: &Taps, out: &mut [u8]) {
    let out_rows = out.chunks_exact_mut(taps.len() * CHANNELS);
    for (row, out_row) in rgb.chunks_exact(width * CHANNELS).zip(out_rows) {
        let row = row.as_chunks::<CHANNELS>().0;
        let pixels = out_row.as_chunks_mut::<CHANNELS>().0;
        for (pixel, (start, weights)) in pixels.iter_mut().zip(taps.iter()) {
            *pixel = weighted_pixel(&row[start..], weights);
        }
    }
}

/// The sum of the first pixels of `row`, each times its weight.
fn weighted_pixel(row: &[[u8; CHANNELS]], weights: &[i32]) -> [u8; CHANNELS] {
    let mut sums = [HALF; CHANNELS];
    for (pixel, weight) in row.iter().zip(weights) {
        for (sum, &byte) in sums.iter_mut().zip(pixel) {
            *sum += i32::from(byte) * weight;
        }
    }
    sums.map(rounded)
}

#[inline(always)]
fn rows_any(rgb: &[u8], width: usize, taps: &Taps, out: &mut [u8]) {
    let stride = width * CHANNELS;
    for (out_row, (start, weights)) in out.chunks_exact_mut(stride).zip(taps.iter()) {
        let source = &rgb[start * stride..(start + weights.len()) * stride];
        let (sweeps, rest) = out_row.as_chunks_mut::<SWEEP>();
        let n_swept = sweeps.len() * SWEEP;
        for (idx, sweep) in sweeps.iter_mut().enumerate() {
            *sweep = weighted_bytes(&source[idx * SWEEP..], stride, weights);
        }
        for (idx, byte) in rest.iter_mut().enumerate() {
            [*byte] = weighted_bytes(&source[n_swept + idx..], stride, weights);
        }
    }
}

/// The sum of the first bytes of each row, each times its row's weight.
#[inline(always)]
fn weighted_bytes<const N: usize>(rows: &[u8], stride: usize, weights: &[i32]) -> [u8; N] {
    let mut sums = [HALF; N];
    for (idx, weight) in weights.iter().enumerate() {
        let row = &rows[idx * stride..][..N];
        for (sum, &byte) in sums.iter_mut().zip(row) {
            *sum += i32::from(byte) * weight;
        }
    }
    sums.map(rounded)
}

#[inline(always)]
fn rounded(sum: i32) -> u8 {
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::super::taps::Filter;
    use super::*;

    /// The loops for any processor are the meaning; what this processor runs must have their bits.
    #[test]
    fn both_versions_have_the_same_bits() {
        for (n_in, n_out) in [(1, 1), (1, 7), (7, 1), (2, 3), (100, 99), (99, 100), (640, 31)] {
            for filter in [Filter::BICUBIC, Filter::BILINEAR] {
                let taps = Taps::new((n_in, n_out), 0..n_out, &filter);
                check(&taps, n_in as usize, n_out as usize);
            }
        }
    }

    fn check(taps: &Taps, n_in: usize, n_out: usize) {
        const N_OTHER: usize = 23;
        // Extremes side by side, so that sums overshoot on both sides.
        let rgb: Vec<u8> =
            (0..n_in * N_OTHER * CHANNELS).map(|idx| [0, 255, 254, 1, 90][idx * idx % 5]).collect();
        let mut expected = vec![0; n_out * N_OTHER * CHANNELS];
        columns_any(&rgb, n_in, taps, &mut expected);
        assert_eq!(columns(&rgb, n_in, taps), expected, "columns {n_in} to {n_out}");
        rows_any(&rgb, N_OTHER, taps, &mut expected);
        assert_eq!(rows(&rgb, N_OTHER, taps), expected, "rows {n_in} to {n_out}");
    }
}
