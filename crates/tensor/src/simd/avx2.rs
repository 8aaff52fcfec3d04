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
