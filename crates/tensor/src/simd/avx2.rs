//! [`Lanes`] in two 256-bit registers.

use super::{Kernel, LANES, Lanes};
use half::{bf16, f16};
use std::arch::x86_64::*;

/// Sixteen lanes in two `ymm` registers.
#[derive(Clone, Copy)]
pub(super) struct Avx2(__m256, __m256);

/// Runs a kernel with 256-bit vectors.
///
/// # Safety
/// The processor has AVX2, FMA and F16C; the kernel's pointers are valid.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) {
    // SAFETY: passed on to the caller.
    unsafe { kernel.run::<Avx2>() }
}

/// Applies a two-operand intrinsic to both halves.
macro_rules! both {
    ($intrinsic:ident, $a:expr, $b:expr) => {
        Self(unsafe { $intrinsic($a.0, $b.0) }, unsafe { $intrinsic($a.1, $b.1) })
    };
}

// SAFETY (all methods): the trait demands the instruction set and valid pointers.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Lanes for Avx2 {
    const TILE_ROWS: usize = 4;
    const TILE_PANELS: usize = 1;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        let half = unsafe { _mm256_set1_ps(value) };
        Self(half, half)
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Self(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> Self {
        let mut array = [0.0; LANES];
        unsafe {
            std::ptr::copy_nonoverlapping(from, array.as_mut_ptr(), n);
            Self::load(array.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        unsafe { Self(widen(from), widen(from.add(8))) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        unsafe {
            let low = _mm256_cvtph_ps(_mm_loadu_si128(from.cast()));
            Self(low, _mm256_cvtph_ps(_mm_loadu_si128(from.add(8).cast())))
        }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe {
            _mm256_storeu_ps(to, self.0);
            _mm256_storeu_ps(to.add(8), self.1);
        }
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, n: usize) {
        unsafe { std::ptr::copy_nonoverlapping(self.to_array().as_ptr(), to, n) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        both!(_mm256_add_ps, self, other)
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        both!(_mm256_sub_ps, self, other)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        both!(_mm256_mul_ps, self, other)
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        both!(_mm256_div_ps, self, other)
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        unsafe { Self(_mm256_fmadd_ps(a.0, b.0, self.0), _mm256_fmadd_ps(a.1, b.1, self.1)) }
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        both!(_mm256_max_ps, self, other)
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        both!(_mm256_min_ps, self, other)
    }
    #[inline(always)]
    unsafe fn abs(self) -> Self {
        unsafe {
            let sign_bit = _mm256_set1_ps(-0.0);
            Self(_mm256_andnot_ps(sign_bit, self.0), _mm256_andnot_ps(sign_bit, self.1))
        }
    }
    #[inline(always)]
    unsafe fn with_sign_of(self, sign: Self) -> Self {
        let sign_bit = unsafe { Self::splat(-0.0) };
        let magnitude = unsafe { self.abs() };
        let signs = both!(_mm256_and_ps, sign_bit, sign);
        both!(_mm256_or_ps, magnitude, signs)
    }
    #[inline(always)]
    unsafe fn power_of_two(self) -> Self {
        unsafe { Self(power_of_two(self.0), power_of_two(self.1)) }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        unsafe { sum_of_eight(_mm256_add_ps(self.0, self.1)) }
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        unsafe { largest_of_eight(_mm256_max_ps(self.0, self.1)) }
    }
    #[inline(always)]
    unsafe fn transpose(rows: [Self; LANES]) -> [Self; LANES] {
        let mut columns = rows;
        unsafe {
            // Part p of `fours[g][j]` (its halves have two each) is column 4p + j of rows 4g..4g+4.
            let [r0, r1, r2, r3, r4, r5, r6, r7, r8, r9, ra, rb, rc, rd, re, rf] = rows;
            let fours = [
                transpose_fours([r0, r1, r2, r3]),
                transpose_fours([r4, r5, r6, r7]),
                transpose_fours([r8, r9, ra, rb]),
                transpose_fours([rc, rd, re, rf]),
            ];
            for j in 0..4 {
                let [a, b, c, d] = [fours[0][j], fours[1][j], fours[2][j], fours[3][j]];
                columns[j] = Self(low_parts(a.0, b.0), low_parts(c.0, d.0));
                columns[4 + j] = Self(high_parts(a.0, b.0), high_parts(c.0, d.0));
                columns[8 + j] = Self(low_parts(a.1, b.1), low_parts(c.1, d.1));
                columns[12 + j] = Self(high_parts(a.1, b.1), high_parts(c.1, d.1));
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
unsafe fn transpose_fours(rows: [Avx2; 4]) -> [Avx2; 4] {
    let [r0, r1, r2, r3] = rows;
    let [f0, f1, f2, f3] = unsafe { transpose_half([r0.0, r1.0, r2.0, r3.0]) };
    let [s0, s1, s2, s3] = unsafe { transpose_half([r0.1, r1.1, r2.1, r3.1]) };
    [Avx2(f0, s0), Avx2(f1, s1), Avx2(f2, s2), Avx2(f3, s3)]
}

/// The low 128 bits of both.
#[inline(always)]
#[allow(clippy::undocumented_unsafe_blocks)]
unsafe fn low_parts(x: __m256, y: __m256) -> __m256 {
    unsafe { _mm256_permute2f128_ps::<0x20>(x, y) }
}

/// The high 128 bits of both.
#[inline(always)]
#[allow(clippy::undocumented_unsafe_blocks)]
unsafe fn high_parts(x: __m256, y: __m256) -> __m256 {
    unsafe { _mm256_permute2f128_ps::<0x31>(x, y) }
}

/// # Safety
/// As [`Lanes`].
#[inline(always)]
#[allow(clippy::undocumented_unsafe_blocks)]
unsafe fn transpose_half(rows: [__m256; 4]) -> [__m256; 4] {
    unsafe {
        let low = _mm256_castps_pd(_mm256_unpacklo_ps(rows[0], rows[1]));
        let low_next = _mm256_castps_pd(_mm256_unpacklo_ps(rows[2], rows[3]));
        let high = _mm256_castps_pd(_mm256_unpackhi_ps(rows[0], rows[1]));
        let high_next = _mm256_castps_pd(_mm256_unpackhi_ps(rows[2], rows[3]));
        [
            _mm256_castpd_ps(_mm256_unpacklo_pd(low, low_next)),
            _mm256_castpd_ps(_mm256_unpackhi_pd(low, low_next)),
            _mm256_castpd_ps(_mm256_unpacklo_pd(high, high_next)),
            _mm256_castpd_ps(_mm256_unpackhi_pd(high, high_next)),
        ]
    }
}

/// # Safety
/// As [`Lanes`].
#[inline(always)]
#[allow(clippy::undocumented_unsafe_blocks)]
unsafe fn power_of_two(exponents: __m256) -> __m256 {
    unsafe {
        let biased = _mm256_add_epi32(_mm256_cvtps_epi32(exponents), _mm256_set1_epi32(127));
        _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
    }
}

/// # Safety
/// As [`Lanes`].
#[inline(always)]
#[allow(clippy::undocumented_unsafe_blocks)]
unsafe fn widen(from: *const bf16) -> __m256 {
    unsafe {
        let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
    }
}

/// Adds lane i and i + 4, then i and i + 2, then the last two, as [`Lanes::sum`] says.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
#[allow(clippy::undocumented_unsafe_blocks)]
pub(super) unsafe fn sum_of_eight(lanes: __m256) -> f32 {
    unsafe {
        let four = _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps::<1>(lanes));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
    }
}

/// # Safety
/// As [`Lanes`].
#[inline(always)]
#[allow(clippy::undocumented_unsafe_blocks)]
pub(super) unsafe fn largest_of_eight(lanes: __m256) -> f32 {
    unsafe {
        let four = _mm_max_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps::<1>(lanes));
        let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
    }
}
