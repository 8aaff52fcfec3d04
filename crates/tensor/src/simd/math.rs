//! Functions of sixteen lanes: exponential, logistic, error function. No table, no branch, the same
//! bits on every processor.

use super::Lanes;

/// Adding and subtracting 1.5 · 2²³ rounds to the nearest integer (ties to even).
const ROUNDER: f32 = 12_582_912.0;
/// Below this e^x is no normal number; the exponential gives its value here instead (1.2e-38).
const EXP_MIN: f32 = -87.0;
/// Above this e^x overflows; the exponential gives its value here instead.
const EXP_MAX: f32 = 88.0;

/// e^x, within 2 units in the last place for x in -87..88; clamped outside.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
#[allow(clippy::undocumented_unsafe_blocks)] // every call passes the caller's promise on
pub(crate) unsafe fn exp<L: Lanes>(x: L) -> L {
    unsafe {
        let x = x.max(L::splat(EXP_MIN)).min(L::splat(EXP_MAX));
        let rounder = L::splat(ROUNDER);
        let n = rounder.fma(x, L::splat(std::f32::consts::LOG2_E)).sub(rounder);
        // x - n ln 2, with ln 2 in two parts: the first has few bits, so its product is exact.
        let r = x.fma(n, L::splat(-0.693_359_4));
        let r = r.fma(n, L::splat(2.121_944_4e-4));
        // Taylor's series to r⁷: |r| is at most ln 2 / 2, where the next term is 5e-9.
        let mut p = L::splat(1.0 / 5040.0);
        for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5] {
            p = L::splat(coefficient).fma(p, r);
        }
        // 1 + r + r² p
        let p = r.fma(p, r.mul(r)).add(L::splat(1.0));
        p.mul(n.power_of_two())
    }
}

/// x / (1 + e^(-slope x)): SiLU for slope 1, quick GELU for slope 1.702.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
#[allow(clippy::undocumented_unsafe_blocks)]
pub(crate) unsafe fn sigmoid_gate<L: Lanes>(x: L, slope: f32) -> L {
    unsafe { x.div(L::splat(1.0).add(exp(x.mul(L::splat(-slope))))) }
}

/// GELU with the hyperbolic tangent: x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))). As tanh is a
/// logistic function, it is x σ(2 √(2/π) (x + 0.044715 x³)).
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
#[allow(clippy::undocumented_unsafe_blocks)]
pub(crate) unsafe fn gelu_tanh<L: Lanes>(x: L) -> L {
    unsafe {
        let cube = x.mul(x).mul(x);
        let inner = x.fma(cube, L::splat(0.044_715));
        let exponent = inner.mul(L::splat(-2.0 * 0.797_884_6));
        x.div(L::splat(1.0).add(exp(exponent)))
    }
}

/// GELU with the error function: x/2 (1 + erf(x/√2)).
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
#[allow(clippy::undocumented_unsafe_blocks)]
pub(crate) unsafe fn gelu<L: Lanes>(x: L) -> L {
    unsafe {
        let erf = erf(x.mul(L::splat(std::f32::consts::FRAC_1_SQRT_2)));
        x.mul(L::splat(0.5)).mul(L::splat(1.0).add(erf))
    }
}

/// The error function by formula 7.1.26 of Abramowitz and Stegun: absolute error below 2e-7.
#[inline(always)]
#[allow(clippy::undocumented_unsafe_blocks)]
unsafe fn erf<L: Lanes>(x: L) -> L {
    unsafe {
        let one = L::splat(1.0);
        let magnitude = x.abs();
        let t = one.div(one.fma(magnitude, L::splat(0.327_591_1)));
        let mut p = L::splat(1.061_405_4);
        for coefficient in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
            p = L::splat(coefficient).fma(p, t);
        }
        let tail = p.mul(t).mul(exp(L::splat(0.0).sub(magnitude.mul(magnitude))));
        one.sub(tail).with_sign_of(x)
    }
}
