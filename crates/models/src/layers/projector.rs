//! Two linear layers with GELU between, from a tower's width to the text model's.

use crate::weights::{Bias, Scope};
use tensor::ops::{Activation, Weight, cast, linear, linear_f32};
use tensor::{Device, Tensor};
use types::Result;

/// The projector's weights.
#[derive(Debug)]
pub(crate) struct Projector {
    linear_1: Weight,
    linear_2: Weight,
}

impl Projector {
    /// Loads `linear_1` and `linear_2`.
    pub(crate) fn load(at: &Scope<'_>, (from, to): (usize, usize), bias: Bias) -> Result<Self> {
        let linear_1 = at.linear("linear_1", (to, from), bias)?;
        Ok(Self { linear_1, linear_2: at.linear("linear_2", (to, to), bias)? })
    }

    /// f32 rows of the tower to f32 rows of the text model.
    pub(crate) fn forward(&self, device: &Device, rows: Tensor) -> Result<Tensor> {
        let rows = cast(device, rows, device.compute_dtype())?;
        let inner = linear(device, &rows, &self.linear_1, Activation::Gelu)?;
        linear_f32(device, &inner, &self.linear_2)
    }
}
