//! Lane functions against f64, and the same bits from every instruction set.

use super::{Isa, Kernel, LANES, Lanes, launch, math};

/// A function of sixteen lanes, applied to all of `x`.
struct Apply<'a> {
    function: Function,
    x: &'a [f32],
    y: &'a mut [f32],
}

#[derive(Debug, Clone, Copy)]
enum Function {
    Exp,
    Silu,
    Gelu,
    Sum,
    Largest,
    Transpose,
}

impl Kernel for Apply<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        for (x, y) in self.x.chunks_exact(LANES).zip(self.y.chunks_exact_mut(LANES)) {
            // SAFETY: chunks of sixteen.
            unsafe {
                let x = L::load(x.as_ptr());
                let value = match self.function {
                    Function::Exp => math::exp(x),
                    Function::Silu => math::sigmoid_gate(x, 1.0),
                    Function::Gelu => math::gelu(x),
                    Function::Sum => L::splat(x.sum()),
                    Function::Largest => L::splat(x.largest()),
                    Function::Transpose => {
                        let mut rows = [x; LANES];
                        for (idx, row) in rows.iter_mut().enumerate() {
                            *row = x.add(L::splat(idx as f32));
                        }
                        L::transpose(rows)[3]
                    }
                };
                value.store(y.as_mut_ptr());
            }
        }
    }
}

fn on(isa: Isa, function: Function, x: &[f32]) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    // SAFETY: `all` lists what this processor can run.
    unsafe { launch(isa, Apply { function, x, y: &mut y }) };
    y
}

/// Numbers from -90 to 90, dense around 0.
fn samples() -> Vec<f32> {
    (0..4096).map(|i| (i as f32 / 2048.0 - 1.0).powi(3) * 90.0).collect()
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    use Function::{Exp, Gelu, Largest, Silu, Sum, Transpose};
    for function in [Exp, Silu, Gelu, Sum, Largest, Transpose] {
        let plain = on(Isa::Portable, function, &samples());
        for isa in Isa::all() {
            let bits = |y: &[f32]| y.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            let y = on(isa, function, &samples());
            assert_eq!(bits(&y), bits(&plain), "{function:?} on {isa:?}");
        }
    }
}

#[test]
fn the_exponential_is_good_to_two_units_in_the_last_place() {
    for (x, y) in samples().iter().zip(on(Isa::best(), Function::Exp, &samples())) {
        let expected = f64::from(x.clamp(-87.0, 88.0)).exp();
        assert!((f64::from(y) / expected - 1.0).abs() < 2.4e-7, "exp {x} = {y}");
    }
}

#[test]
fn sums_and_columns_are_those_of_the_lanes() {
    let x: Vec<f32> = (0..16).map(|i| i as f32).collect();
    assert_eq!(on(Isa::best(), Function::Sum, &x), [120.0; LANES]);
    assert_eq!(on(Isa::best(), Function::Largest, &x), [15.0; LANES]);
    let column: Vec<f32> = (0..16).map(|row| 3.0 + row as f32).collect();
    assert_eq!(on(Isa::best(), Function::Transpose, &x), column);
}
