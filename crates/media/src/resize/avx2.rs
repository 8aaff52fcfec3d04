//! The column pass for AVX2: four taps of one pixel by each multiplication.
//!
//! A weight has 23 bits and a sign, too many for the 16-bit products that the processor sums in
//! pairs. So it is cut in two, `weight = high * 2^11 + low`; both sums are exact, and so is the
//! result.

use super::pass::{HALF, PADDING};
use super::taps::{Taps, WEIGHT_BITS};
use crate::image::CHANNELS;
use bytemuck::cast;
use std::arch::x86_64::*;

/// Taps that one multiplication takes.
const GROUP: usize = 4;

/// Bits of the lower part of a weight.
const LOW_BITS: u32 = 11;

/// Four weights, as the multiplication wants them: `[a b a b a b a b c d c d c d c d]`.
#[derive(Clone, Copy)]
struct Group {
    low: [i16; 16],
    high: [i16; 16],
}

/// A destination pixel: its first source pixel, and its range of groups.
struct Pixel {
    start: usize,
    groups: std::ops::Range<usize>,
}

/// Resamples every row of `rgb` `[any, width, 3]` to as many pixels as `taps` makes.
#[target_feature(enable = "avx2")]
pub(super) fn columns(rgb: &[u8], width: usize, taps: &Taps, out: &mut [u8]) {
    let (pixels, groups) = grouped(taps);
    let stride = width * CHANNELS;
    let mut row = vec![0; stride + PADDING];
    let out_rows = out.chunks_exact_mut(taps.len() * CHANNELS);
    for (source, out_row) in rgb.chunks_exact(stride).zip(out_rows) {
        row[..stride].copy_from_slice(source);
        for (out, pixel) in out_row.as_chunks_mut::<CHANNELS>().0.iter_mut().zip(&pixels) {
            *out = weighted(&row[pixel.start * CHANNELS..], &groups[pixel.groups.clone()]);
        }
    }
}

/// The sum of the pixels at the front of `row`, each times its weight.
#[target_feature(enable = "avx2")]
fn weighted(row: &[u8], groups: &[Group]) -> [u8; CHANNELS] {
    let mut low = _mm256_set1_epi32(0);
    let mut high = low;
    for (idx, group) in groups.iter().enumerate() {
        let bytes: [u8; 16] = *row[idx * GROUP * CHANNELS..].first_chunk().expect("row is padded");
        let pairs = channel_pairs(cast(bytes));
        low = _mm256_add_epi32(low, _mm256_madd_epi16(pairs, cast(group.low)));
        high = _mm256_add_epi32(high, _mm256_madd_epi16(pairs, cast(group.high)));
    }
    let sum = _mm256_add_epi32(low, _mm256_slli_epi32::<{ LOW_BITS as i32 }>(high));
    let sum = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
    let sum = _mm_srai_epi32::<{ WEIGHT_BITS as i32 }>(_mm_add_epi32(sum, _mm_set1_epi32(HALF)));
    let words = _mm_packs_epi32(sum, sum);
    let bytes: [u8; 16] = cast(_mm_packus_epi16(words, words));
    [bytes[0], bytes[1], bytes[2]]
}

/// Four RGB pixels as 16-bit `[r0 r1 g0 g1 b0 b1 0 0 r2 r3 g2 g3 b2 b3 0 0]`.
#[target_feature(enable = "avx2")]
fn channel_pairs(pixels: __m128i) -> __m256i {
    const NONE: i8 = -1;
    const LANES: [i8; 32] = {
        let mut lanes = [NONE; 32];
        let mut idx = 0;
        while idx < GROUP * CHANNELS {
            let (tap, channel) = (idx / CHANNELS, idx % CHANNELS);
            lanes[tap / 2 * 16 + channel * 4 + tap % 2 * 2] = idx as i8;
            idx += 1;
        }
        lanes
    };
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(pixels), cast(LANES))
}

/// The weights of `taps` in groups of four, filled up with zeros.
fn grouped(taps: &Taps) -> (Vec<Pixel>, Vec<Group>) {
    let mut groups = Vec::new();
    let pixels = taps.iter().map(|(start, weights)| {
        let first = groups.len();
        groups.extend(weights.chunks(GROUP).map(group));
        Pixel { start, groups: first..groups.len() }
    });
    (pixels.collect(), groups)
}

fn group(weights: &[i32]) -> Group {
    let mut group = Group { low: [0; 16], high: [0; 16] };
    for (tap, &weight) in weights.iter().enumerate() {
        for channel in 0..4 {
            let lane = tap / 2 * 8 + channel * 2 + tap % 2;
            group.low[lane] = (weight & ((1 << LOW_BITS) - 1)) as i16;
            group.high[lane] = (weight >> LOW_BITS) as i16;
        }
    }
    group
}
