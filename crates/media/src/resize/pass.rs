//! The two passes over pixels. Each loop is compiled twice, for any processor and for AVX2.

use super::taps::{Taps, WEIGHT_BITS};
use crate::image::CHANNELS;

/// Half a unit: what rounding adds before the fraction is cut off.
const HALF: i32 = 1 << (WEIGHT_BITS - 1);

/// Bytes that one sweep of the row pass carries in registers.
const SWEEP: usize = 64;

/// Bytes that the column pass reads beyond a pixel.
const PADDING: usize = 1;

/// Resamples every row of `rgb` `[any, width, 3]` to as many pixels as `taps` makes.
pub(super) fn columns(rgb: &[u8], width: usize, taps: &Taps) -> Vec<u8> {
    let mut out = vec![0; rgb.len() / (width * CHANNELS) * taps.len() * CHANNELS];
    if out.is_empty() {
        return out;
    }
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, it was just asked.
        unsafe { columns_avx2(rgb, width, taps, &mut out) };
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
fn columns_avx2(rgb: &[u8], width: usize, taps: &Taps, out: &mut [u8]) {
    columns_any(rgb, width, taps, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn rows_avx2(rgb: &[u8], width: usize, taps: &Taps, out: &mut [u8]) {
    rows_any(rgb, width, taps, out);
}

#[inline(always)]
fn columns_any(rgb: &[u8], width: usize, taps: &Taps, out: &mut [u8]) {
    let stride = width * CHANNELS;
    // A copy with padding, so that a pixel can be read as four bytes, a whole register of them.
    let mut row = vec![0; stride + PADDING];
    let out_rows = out.chunks_exact_mut(taps.len() * CHANNELS);
    for (source, out_row) in rgb.chunks_exact(stride).zip(out_rows) {
        row[..stride].copy_from_slice(source);
        let pixels = out_row.as_chunks_mut::<CHANNELS>().0;
        for (pixel, (start, weights)) in pixels.iter_mut().zip(taps.iter()) {
            *pixel = weighted_pixel(&row[start * CHANNELS..], weights);
        }
    }
}

/// The sum of the pixels at the front of `row`, each times its weight.
#[inline(always)]
fn weighted_pixel(row: &[u8], weights: &[i32]) -> [u8; CHANNELS] {
    let row = &row[..weights.len() * CHANNELS + PADDING];
    let mut sums = [HALF; CHANNELS + PADDING];
    for (idx, weight) in weights.iter().enumerate() {
        for (channel, sum) in sums.iter_mut().enumerate() {
            *sum += i32::from(row[idx * CHANNELS + channel]) * weight;
        }
    }
    [rounded(sums[0]), rounded(sums[1]), rounded(sums[2])]
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
