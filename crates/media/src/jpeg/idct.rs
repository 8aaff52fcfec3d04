//! The inverse cosine transform of a block, in the integer arithmetic of libjpeg's default.
//!
//! Loeffler, Ligtenberg and Moschytz's factorisation, twice along eight values; constants have 13
//! fractional bits, the values between the two passes 2 more than the samples. Sums wrap, so that
//! coefficients which no encoder writes do no harm.

use super::frame::{BLOCK, N_COEFFICIENTS};
use std::num::Wrapping;

/// Coefficients in natural order, not yet multiplied by their quantisation steps.
pub(super) type Block = [i16; N_COEFFICIENTS];

/// One value of each of eight columns (or rows): the transform runs on all eight at once.
type Lanes = [Wrapping<i32>; BLOCK];

const CONSTANT_BITS: usize = 13;
const EXTRA_BITS: usize = 2;

/// Writes the samples of `block` to the front of `out`, whose rows are `stride` apart.
pub(super) fn inverse(
    block: &Block,
    quantisation: &[u16; N_COEFFICIENTS],
    out: &mut [u8],
    stride: usize,
) {
    if block[1..].iter().all(|&coefficient| coefficient == 0) {
        let level = i32::from(block[0]).wrapping_mul(quantisation[0].into());
        let sample = sample(Wrapping(level) * Wrapping(1 << EXTRA_BITS), EXTRA_BITS + 3);
        out.chunks_mut(stride).take(BLOCK).for_each(|row| row[..BLOCK].fill(sample));
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, it was just asked.
        unsafe { inverse_avx2(block, quantisation, out, stride) };
        return;
    }
    inverse_any(block, quantisation, out, stride);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn inverse_avx2(block: &Block, steps: &[u16; N_COEFFICIENTS], out: &mut [u8], stride: usize) {
    inverse_any(block, steps, out, stride);
}

#[inline(always)]
fn inverse_any(block: &Block, steps: &[u16; N_COEFFICIENTS], out: &mut [u8], stride: usize) {
    let mut values = [[Wrapping(0); BLOCK]; BLOCK];
    for (row, lanes) in values.iter_mut().enumerate() {
        for (column, value) in lanes.iter_mut().enumerate() {
            let idx = row * BLOCK + column;
            *value = Wrapping(i32::from(block[idx])) * Wrapping(i32::from(steps[idx]));
        }
    }
    let columns = transform(&values);
    let columns =
        columns.map(|lanes| lanes.map(|value| descale(value, CONSTANT_BITS - EXTRA_BITS)));
    let rows = transpose(&transform(&transpose(&columns)));
    for (values, row) in rows.iter().zip(out.chunks_mut(stride)) {
        let samples = values.map(|value| sample(value, CONSTANT_BITS + EXTRA_BITS + 3));
        row[..BLOCK].copy_from_slice(&samples);
    }
}

/// The one-dimensional transform along the first index; results have 13 more fractional bits.
#[inline(always)]
fn transform(input: &[Lanes; BLOCK]) -> [Lanes; BLOCK] {
    let mut out = [[Wrapping(0); BLOCK]; BLOCK];
    for lane in 0..BLOCK {
        let [c0, c1, c2, c3] = [input[0][lane], input[1][lane], input[2][lane], input[3][lane]];
        let [c4, c5, c6, c7] = [input[4][lane], input[5][lane], input[6][lane], input[7][lane]];
        // The symmetric part, of coefficients 0, 2, 4, 6.
        let both = (c2 + c6) * constant(0.541196100);
        let p2 = both - c6 * constant(1.847759065);
        let p3 = both + c2 * constant(0.765366865);
        let p0 = (c0 + c4) << CONSTANT_BITS;
        let p1 = (c0 - c4) << CONSTANT_BITS;
        let even = [p0 + p3, p1 + p2, p1 - p2, p0 - p3];
        // The antisymmetric part, of coefficients 1, 3, 5, 7.
        let all = (c1 + c3 + c5 + c7) * constant(1.175875602);
        let outer = (c1 + c7) * constant(0.899976223);
        let inner = (c3 + c5) * constant(2.562915447);
        let late = all - (c3 + c7) * constant(1.961570560);
        let early = all - (c1 + c5) * constant(0.390180644);
        let odd = [
            c1 * constant(1.501321110) - outer + early,
            c3 * constant(3.072711026) - inner + late,
            c5 * constant(2.053119869) - inner + early,
            c7 * constant(0.298631336) - outer + late,
        ];
        out[0][lane] = even[0] + odd[0];
        out[1][lane] = even[1] + odd[1];
        out[2][lane] = even[2] + odd[2];
        out[3][lane] = even[3] + odd[3];
        out[4][lane] = even[3] - odd[3];
        out[5][lane] = even[2] - odd[2];
        out[6][lane] = even[1] - odd[1];
        out[7][lane] = even[0] - odd[0];
    }
    out
}

/// A constant in fixed point.
const fn constant(value: f64) -> Wrapping<i32> {
    Wrapping((value * (1 << CONSTANT_BITS) as f64 + 0.5) as i32)
}

#[inline(always)]
fn transpose(values: &[Lanes; BLOCK]) -> [Lanes; BLOCK] {
    std::array::from_fn(|row| std::array::from_fn(|column| values[column][row]))
}

/// Drops `n_bits` fractional bits, rounding.
#[inline(always)]
fn descale(value: Wrapping<i32>, n_bits: usize) -> Wrapping<i32> {
    (value + Wrapping(1 << (n_bits - 1))) >> n_bits
}

/// A sample from a value around zero.
#[inline(always)]
fn sample(value: Wrapping<i32>, n_bits: usize) -> u8 {
    (descale(value, n_bits).0 + 128).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The code for any processor is the meaning: what runs here must have its bits.
    #[test]
    fn both_versions_have_the_same_bits() {
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as i32
        };
        for n_coefficients in 0..N_COEFFICIENTS {
            let mut block = [0; N_COEFFICIENTS];
            block[..=n_coefficients].fill_with(|| (next() % 900) as i16);
            let steps = std::array::from_fn(|_| (next() % 60) as u16);
            let (mut expected, mut ours) = ([0; N_COEFFICIENTS], [0; N_COEFFICIENTS]);
            inverse_any(&block, &steps, &mut expected, BLOCK);
            inverse(&block, &steps, &mut ours, BLOCK);
            assert_eq!(ours, expected, "{block:?}");
        }
    }
}
