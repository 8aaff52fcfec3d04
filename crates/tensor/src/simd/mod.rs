//! Sixteen f32 lanes on whatever vector unit this processor has.
//!
//! Every operation is written once over [`Lanes`] and instantiated per instruction set; all of them
//! do the same roundings in the same order, so a result has the same bits on every processor.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod math;
mod portable;
#[cfg(test)]
mod tests;

use half::{bf16, f16};

/// Number of lanes; also the width of a weight panel.
pub(crate) const LANES: usize = 16;

/// An instruction set that kernels are instantiated for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Isa {
    /// 512-bit vectors.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// 256-bit vectors with fused multiply-add and half-precision conversion.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Plain Rust; slow, because `mul_add` becomes a library call.
    Portable,
}

impl Isa {
    /// The best instruction set of this processor.
    pub(crate) fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            // Detection is cached by the standard library: a load and a test.
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
                return Self::Avx512;
            }
            let has_avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            if has_avx2 && is_x86_feature_detected!("f16c") {
                return Self::Avx2;
            }
        }
        Self::Portable
    }

    /// Every instruction set that this processor can run.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Self> {
        let best = Self::best();
        let mut all = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        match best {
            Self::Avx512 => all.extend([Self::Avx2, Self::Avx512]),
            Self::Avx2 => all.push(Self::Avx2),
            Self::Portable => {}
        }
        let _ = best;
        all
    }
}

/// Work that is instantiated for every instruction set.
pub(crate) trait Kernel {
    /// Does the work with vectors of type `L`. Implementations are `#[inline(always)]`, all the way
    /// down to the intrinsics, because only then do these become single instructions.
    ///
    /// # Safety
    /// The processor has the instructions of `L`, and the pointers inside `self` are valid.
    unsafe fn run<L: Lanes>(self);
}

/// Runs `kernel` with the vectors of `isa`.
///
/// # Safety
/// The pointers inside the kernel are valid for what it documents.
pub(crate) unsafe fn launch<K: Kernel>(isa: Isa, kernel: K) {
    match isa {
        // SAFETY: an `Isa` other than `Portable` is only made after its features were detected.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512::run(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2::run(kernel) },
        // SAFETY: plain Rust needs no feature.
        Isa::Portable => unsafe { kernel.run::<portable::Portable>() },
    }
}

/// Sixteen f32 values.
///
/// # Safety
/// All methods need the instruction set of the implementing type; pointers must be valid for the
/// elements read or written, with any alignment.
pub(crate) trait Lanes: Copy {
    /// Rows of the largest matrix tile whose accumulators fit the registers.
    const TILE_ROWS: usize;
    /// Panels of that tile.
    const TILE_PANELS: usize;

    /// All lanes `value`.
    unsafe fn splat(value: f32) -> Self;
    /// Sixteen consecutive values.
    unsafe fn load(from: *const f32) -> Self;
    /// `n < 16` consecutive values, then zeros.
    unsafe fn load_first(from: *const f32, n: usize) -> Self;
    /// Sixteen consecutive values, widened.
    unsafe fn load_bf16(from: *const bf16) -> Self;
    /// Sixteen consecutive values, widened.
    unsafe fn load_f16(from: *const f16) -> Self;
    /// Writes all lanes.
    unsafe fn store(self, to: *mut f32);
    /// Writes the first `n < 16` lanes.
    unsafe fn store_first(self, to: *mut f32, n: usize);
    /// `self + other`.
    unsafe fn add(self, other: Self) -> Self;
    /// `self - other`.
    unsafe fn sub(self, other: Self) -> Self;
    /// `self * other`.
    unsafe fn mul(self, other: Self) -> Self;
    /// `self / other`.
    unsafe fn div(self, other: Self) -> Self;
    /// `a * b + self`, rounded once.
    unsafe fn fma(self, a: Self, b: Self) -> Self;
    /// The larger of each pair.
    unsafe fn max(self, other: Self) -> Self;
    /// The smaller of each pair.
    unsafe fn min(self, other: Self) -> Self;
    /// Without sign.
    unsafe fn abs(self) -> Self;
    /// The magnitude of `self` with the sign of `sign`.
    unsafe fn with_sign_of(self, sign: Self) -> Self;
    /// Two to the power of `self`, which holds integers from -126 to 127.
    unsafe fn power_of_two(self) -> Self;

    /// The sum of all lanes: first lanes `i` and `i + 8`, then `i` and `i + 4`, and so on.
    unsafe fn sum(self) -> f32;
    /// The largest lane.
    unsafe fn largest(self) -> f32;
    /// Sixteen rows become sixteen columns.
    unsafe fn transpose(rows: [Self; LANES]) -> [Self; LANES];

    /// The lanes as an array.
    #[inline(always)]
    unsafe fn to_array(self) -> [f32; LANES] {
        let mut array = [0.0; LANES];
        // SAFETY: the array holds sixteen values.
        unsafe { self.store(array.as_mut_ptr()) };
        array
    }
}

/// An element type that loads as sixteen f32 lanes.
pub(crate) trait Loadable: crate::dtype::Element {
    /// Sixteen consecutive elements as f32.
    ///
    /// # Safety
    /// As [`Lanes`].
    unsafe fn load<L: Lanes>(from: *const Self) -> L;
}

impl Loadable for f32 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const Self) -> L {
        // SAFETY: passed on to the caller.
        unsafe { L::load(from) }
    }
}

impl Loadable for bf16 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const Self) -> L {
        // SAFETY: passed on to the caller.
        unsafe { L::load_bf16(from) }
    }
}

impl Loadable for f16 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const Self) -> L {
        // SAFETY: passed on to the caller.
        unsafe { L::load_f16(from) }
    }
}
