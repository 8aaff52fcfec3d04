//! [`Lanes`] in one 512-bit register.

use super::{Kernel, LANES, Lanes, avx2};
use half::{bf16, f16};
use std::arch::x86_64::*;

/// Sixteen lanes in a `zmm` register.
#[derive(Clone, Copy)]
pub(super) struct Avx512(__m512);

/// Runs a kernel with 512-bit vectors.
///
/// # Safety
/// The processor has AVX-512F and BW; the kernel's pointers are valid.
#[target_feature(enable = "avx512f,avx512bw,avx2,fma,f16c")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) {
    // SAFETY: passed on to the caller.
    unsafe { kernel.run::<Avx512>() }
}

// SAFETY (all methods): the trait demands the instruction set and valid pointers.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Lanes for Avx512 {
    const TILE_ROWS: usize = 8;
    const TILE_PANELS: usize = 3;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self(unsafe { _mm512_set1_ps(value) })
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(unsafe { _mm512_loadu_ps(from) })
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> Self {
        Self(unsafe { _mm512_maskz_loadu_ps(first(n), from) })
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide)))
        }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        Self(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, n: usize) {
        unsafe { _mm512_mask_storeu_ps(to, first(n), self.0) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(unsafe { _mm512_add_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Self(unsafe { _mm512_sub_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self(unsafe { _mm512_mul_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        Self(unsafe { _mm512_div_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        Self(unsafe { _mm512_fmadd_ps(a.0, b.0, self.0) })
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        Self(unsafe { _mm512_max_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        Self(unsafe { _mm512_min_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn abs(self) -> Self {
        Self(unsafe { _mm512_abs_ps(self.0) })
    }
    #[inline(always)]
    unsafe fn with_sign_of(self, sign: Self) -> Self {
        unsafe {
            let sign_bit = _mm512_set1_epi32(i32::MIN);
            let (magnitude, sign) = (_mm512_castps_si512(self.0), _mm512_castps_si512(sign.0));
            let rest = _mm512_andnot_si512(sign_bit, magnitude);
            Self(_mm512_castsi512_ps(_mm512_or_si512(rest, _mm512_and_si512(sign, sign_bit))))
        }
    }
    #[inline(always)]
    unsafe fn power_of_two(self) -> Self {
        unsafe {
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(self.0), _mm512_set1_epi32(127));
            Self(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased)))
        }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        unsafe {
            let high = _mm512_extractf64x4_pd::<1>(_mm512_castps_pd(self.0));
            let low = _mm512_castps512_ps256(self.0);
            avx2::sum_of_eight(_mm256_add_ps(low, _mm256_castpd_ps(high)))
        }
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        unsafe {
            let high = _mm512_extractf64x4_pd::<1>(_mm512_castps_pd(self.0));
            let low = _mm512_castps512_ps256(self.0);
            avx2::largest_of_eight(_mm256_max_ps(low, _mm256_castpd_ps(high)))
        }
    }
    #[inline(always)]
    unsafe fn transpose(rows: [Self; LANES]) -> [Self; LANES] {
        let mut columns = rows;
        unsafe {
            // Inside 128-bit parts: part p of `fours[g][j]` holds column 4p + j of rows 4g..4g+4.
            let [r0, r1, r2, r3, r4, r5, r6, r7, r8, r9, ra, rb, rc, rd, re, rf] = rows;
            let fours = [
                transpose_fours([r0.0, r1.0, r2.0, r3.0]),
                transpose_fours([r4.0, r5.0, r6.0, r7.0]),
                transpose_fours([r8.0, r9.0, ra.0, rb.0]),
                transpose_fours([rc.0, rd.0, re.0, rf.0]),
            ];
            for j in 0..4 {
                let even_low = _mm512_shuffle_f32x4::<0x88>(fours[0][j], fours[1][j]);
                let even_high = _mm512_shuffle_f32x4::<0x88>(fours[2][j], fours[3][j]);
                let odd_low = _mm512_shuffle_f32x4::<0xDD>(fours[0][j], fours[1][j]);
                let odd_high = _mm512_shuffle_f32x4::<0xDD>(fours[2][j], fours[3][j]);
                columns[j] = Self(_mm512_shuffle_f32x4::<0x88>(even_low, even_high));
                columns[4 + j] = Self(_mm512_shuffle_f32x4::<0x88>(odd_low, odd_high));
                columns[8 + j] = Self(_mm512_shuffle_f32x4::<0xDD>(even_low, even_high));
                columns[12 + j] = Self(_mm512_shuffle_f32x4::<0xDD>(odd_low, odd_high));
            }
        }
        columns
    }
}

/// Transposes the 4 by 4 blocks that lie in the four 128-bit parts.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
#[allow(clippy::undocumented_unsafe_blocks)]
unsafe fn transpose_fours(rows: [__m512; 4]) -> [__m512; 4] {
    unsafe {
        let low = _mm512_castps_pd(_mm512_unpacklo_ps(rows[0], rows[1]));
        let low_next = _mm512_castps_pd(_mm512_unpacklo_ps(rows[2], rows[3]));
        let high = _mm512_castps_pd(_mm512_unpackhi_ps(rows[0], rows[1]));
        let high_next = _mm512_castps_pd(_mm512_unpackhi_ps(rows[2], rows[3]));
        [
            _mm512_castpd_ps(_mm512_unpacklo_pd(low, low_next)),
            _mm512_castpd_ps(_mm512_unpackhi_pd(low, low_next)),
            _mm512_castpd_ps(_mm512_unpacklo_pd(high, high_next)),
            _mm512_castpd_ps(_mm512_unpackhi_pd(high, high_next)),
        ]
    }
}

/// A mask of the first `n < 16` lanes.
#[inline(always)]
fn first(n: usize) -> __mmask16 {
    (1 << n) - 1
}
