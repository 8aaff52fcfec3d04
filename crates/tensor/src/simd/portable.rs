//! [`Lanes`] in plain Rust: the oracle for the others, and the fallback on other processors.

use super::{LANES, Lanes};
use half::{bf16, f16};

/// Sixteen lanes in an array.
#[derive(Clone, Copy)]
pub(super) struct Portable([f32; LANES]);

#[inline(always)]
fn zip(a: Portable, b: Portable, f: impl Fn(f32, f32) -> f32) -> Portable {
    Portable(std::array::from_fn(|lane| f(a.0[lane], b.0[lane])))
}

// SAFETY (all methods): the trait demands valid pointers.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Lanes for Portable {
    const TILE_ROWS: usize = 4;
    const TILE_PANELS: usize = 1;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; LANES])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(std::array::from_fn(|lane| unsafe { from.add(lane).read_unaligned() }))
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> Self {
        Self(std::array::from_fn(|lane| if lane < n { unsafe { *from.add(lane) } } else { 0.0 }))
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        Self(std::array::from_fn(|lane| unsafe { *from.add(lane) }.to_f32()))
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        Self(std::array::from_fn(|lane| unsafe { *from.add(lane) }.to_f32()))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { std::ptr::copy_nonoverlapping(self.0.as_ptr(), to, LANES) }
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, n: usize) {
        unsafe { std::ptr::copy_nonoverlapping(self.0.as_ptr(), to, n) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        zip(self, other, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        zip(self, other, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        zip(self, other, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        zip(self, other, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        Self(std::array::from_fn(|lane| a.0[lane].mul_add(b.0[lane], self.0[lane])))
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // Like the vector instruction: the second operand unless the first is larger.
        zip(self, other, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        zip(self, other, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn abs(self) -> Self {
        Self(self.0.map(f32::abs))
    }
    #[inline(always)]
    unsafe fn with_sign_of(self, sign: Self) -> Self {
        zip(self, sign, f32::copysign)
    }
    #[inline(always)]
    unsafe fn power_of_two(self) -> Self {
        Self(self.0.map(|exponent| f32::from_bits(((exponent as i32 + 127) as u32) << 23)))
    }
    #[inline(always)]
    unsafe fn sum(mut self) -> f32 {
        for half in [8, 4, 2, 1] {
            for lane in 0..half {
                self.0[lane] += self.0[lane + half];
            }
        }
        self.0[0]
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        self.0.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    unsafe fn transpose(rows: [Self; LANES]) -> [Self; LANES] {
        std::array::from_fn(|column| Self(std::array::from_fn(|row| rows[row].0[column])))
    }
}
