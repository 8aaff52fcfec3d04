//! A tower's transformer block: layer norm, full attention inside each frame with or without 2-D
//! rotary angles, layer norm, a two-layer MLP; both added to the residual.

use crate::weights::{Bias, Scope};
use tensor::ops::{
    Activation, Angles, Segments, Weight, attention_packed, layer_norm, linear, linear_add, rotary,
};
use tensor::{Device, Tensor};
use types::Result;

/// Sizes of a block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct VisionBlockShape {
    /// Columns of the residual.
    pub(crate) width: usize,
    /// Attention heads.
    pub(crate) n_heads: usize,
    /// Columns inside the MLP.
    pub(crate) mlp_width: usize,
    /// Of both norms.
    pub(crate) epsilon: f32,
}

/// A layer norm's weights.
#[derive(Debug)]
pub(crate) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f32,
}

/// One block's weights.
#[derive(Debug)]
pub(crate) struct VisionBlock {
    shape: VisionBlockShape,
    norm1: LayerNorm,
    qkv: Weight,
    proj: Weight,
    norm2: LayerNorm,
    fc1: Weight,
    fc2: Weight,
}

impl VisionBlock {
    /// Loads a block by Qwen2-VL's names: `norm1`, `attn.qkv`, `attn.proj`, `norm2`, `mlp.fc1`,
    /// `mlp.fc2`.
    pub(crate) fn load(at: &Scope<'_>, shape: VisionBlockShape) -> Result<Self> {
        let VisionBlockShape { width, mlp_width, epsilon, .. } = shape;
        Ok(Self {
            shape,
            norm1: LayerNorm::load(&at.at("norm1"), width, epsilon)?,
            qkv: at.linear("attn.qkv", (3 * width, width), Bias::With)?,
            proj: at.linear("attn.proj", (width, width), Bias::With)?,
            norm2: LayerNorm::load(&at.at("norm2"), width, epsilon)?,
            fc1: at.linear("mlp.fc1", (mlp_width, width), Bias::With)?,
            fc2: at.linear("mlp.fc2", (width, mlp_width), Bias::With)?,
        })
    }

    /// Loads a block by CLIP's names: `layer_norm1`, `self_attn.{q,k,v,out}_proj`, `layer_norm2`,
    /// `mlp.fc1`, `mlp.fc2`.
    pub(crate) fn load_clip(at: &Scope<'_>, shape: VisionBlockShape) -> Result<Self> {
        let VisionBlockShape { width, mlp_width, epsilon, .. } = shape;
        let attention = at.at("self_attn");
        let parts = ["q_proj", "k_proj", "v_proj"].map(|name| (name, width));
        Ok(Self {
            shape,
            norm1: LayerNorm::load(&at.at("layer_norm1"), width, epsilon)?,
            qkv: attention.stacked(&parts, width, Bias::With)?,
            proj: attention.linear("out_proj", (width, width), Bias::With)?,
            norm2: LayerNorm::load(&at.at("layer_norm2"), width, epsilon)?,
            fc1: at.linear("mlp.fc1", (mlp_width, width), Bias::With)?,
            fc2: at.linear("mlp.fc2", (width, mlp_width), Bias::With)?,
        })
    }

    /// Runs the block on the residual `[rows, width]`; `frames` are the rows of each frame, and
    /// nothing turns where there are no `angles`.
    pub(crate) fn forward(
        &self,
        device: &Device,
        residual: &mut Tensor,
        angles: Option<&Angles>,
        frames: &Segments,
    ) -> Result<()> {
        let n_heads = self.shape.n_heads;
        let normed = self.norm1.forward(device, residual)?;
        let mut qkv = linear(device, &normed, &self.qkv, Activation::None)?;
        if let Some(angles) = angles {
            rotary(device, &mut qkv, angles, 0..2 * n_heads)?;
        }
        let attended = attention_packed(device, &qkv, n_heads, frames)?;
        linear_add(device, &attended, &self.proj, residual)?;
        let normed = self.norm2.forward(device, residual)?;
        let inner = linear(device, &normed, &self.fc1, Activation::QuickGelu)?;
        linear_add(device, &inner, &self.fc2, residual)
    }
}

impl LayerNorm {
    /// Loads `weight` and `bias`.
    pub(crate) fn load(at: &Scope<'_>, width: usize, epsilon: f32) -> Result<Self> {
        Ok(Self { weight: at.vector("weight", width)?, bias: at.vector("bias", width)?, epsilon })
    }

    /// The normalised rows.
    pub(crate) fn forward(&self, device: &Device, x: &Tensor) -> Result<Tensor> {
        layer_norm(device, x, &self.weight, &self.bias, self.epsilon)
    }
}
