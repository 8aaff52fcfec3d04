//! A text decoder of the Llama family: RMS norms, grouped-query attention over the paged cache with
//! rotary angles on one axis or three, a gated MLP.

use crate::layers::rope::{AxisRotation, inverse_frequencies};
use crate::model::KvShape;
use crate::step::Step;
use crate::weights::{Bias, Scope};
use tensor::ops::{
    Activation, Angles, PagedRows, Weight, attention_paged, embedding, gather_rows, kv_write,
    linear, linear_add, linear_f32, put_rows, rms_norm, rotary,
};
use tensor::{DType, Device, KvPool, Tensor};
use types::{Error, Result};

/// Sizes and constants of a decoder.
#[derive(Debug, Clone)]
pub(crate) struct DecoderShape {
    /// Rows of the embedding, columns of the logits.
    pub(crate) vocab_size: usize,
    /// Columns of the residual.
    pub(crate) width: usize,
    /// Query heads.
    pub(crate) n_heads: usize,
    /// What is cached.
    pub(crate) kv: KvShape,
    /// Columns inside the MLP.
    pub(crate) mlp_width: usize,
    /// Of all norms.
    pub(crate) epsilon: f32,
    /// Base of the rotary frequencies.
    pub(crate) rope_theta: f32,
    /// Axis of each rotary frequency; `head_dim / 2` entries.
    pub(crate) rope_axes: Vec<usize>,
    /// Whether queries, keys and values have biases.
    pub(crate) qkv_bias: Bias,
    /// The head is the embedding.
    pub(crate) is_head_tied: bool,
}

/// A decoder's weights.
#[derive(Debug)]
pub(crate) struct Decoder {
    shape: DecoderShape,
    rotation: AxisRotation,
    embed_tokens: Weight,
    layers: Vec<Layer>,
    norm: Tensor,
    /// `None` when it is the embedding.
    lm_head: Option<Weight>,
}

#[derive(Debug)]
struct Layer {
    input_layernorm: Tensor,
    qkv: Weight,
    o_proj: Weight,
    post_attention_layernorm: Tensor,
    gate_up: Weight,
    down_proj: Weight,
}

impl Decoder {
    /// Loads `embed_tokens`, `layers.N`, `norm` below `at`, and `lm_head` at the root.
    pub(crate) fn load(root: &Scope<'_>, at: &Scope<'_>, shape: DecoderShape) -> Result<Self> {
        let table = (shape.vocab_size, shape.width);
        let frequencies = inverse_frequencies(shape.rope_theta, shape.kv.head_dim / 2);
        let load_layer = |idx| Layer::load(&at.at("layers").at(idx), &shape);
        let lm_head = match shape.is_head_tied {
            true => None,
            false => Some(root.linear("lm_head", table, Bias::Without)?),
        };
        Ok(Self {
            rotation: AxisRotation::new(root.device(), &frequencies, &shape.rope_axes)?,
            embed_tokens: at.linear("embed_tokens", table, Bias::Without)?,
            layers: (0..shape.kv.n_layers).map(load_layer).collect::<Result<_>>()?,
            norm: at.vector("norm.weight", shape.width)?,
            lm_head,
            shape,
        })
    }

    /// One step, as [`crate::Model::forward`] says.
    pub(crate) fn forward(
        &self,
        device: &Device,
        step: &Step<'_>,
        kv: &mut KvPool,
    ) -> Result<Tensor> {
        self.check(kv)?;
        let mut residual = embedding(device, &self.embed_tokens, &step.tokens)?;
        for media in step.embeddings {
            put_rows(device, &mut residual, media.first_row, media.of, media.rows.clone())?;
        }
        let angles = self.rotation.angles(device, &step.positions)?;
        let (last, others) = self.layers.split_last().ok_or_else(|| misfit("no layers"))?;
        for (idx, layer) in others.iter().enumerate() {
            let qkv = self.keys(device, layer, (&residual, &angles))?;
            kv_write(device, &qkv, (kv, idx), &step.rows)?;
            self.finish((device, layer), (&qkv, &step.rows), (kv, idx), &mut residual)?;
        }
        let qkv = self.keys(device, last, (&residual, &angles))?;
        kv_write(device, &qkv, (kv, others.len()), &step.rows)?;
        if step.wanted.as_ref().is_some_and(|wanted| wanted.rows.n_rows() == 0) {
            return Tensor::scratch_on(device, DType::F32, &[0, self.shape.vocab_size]);
        }
        // Behind the last layer's keys only the rows whose logits are wanted matter.
        let (qkv, mut residual, rows) = match &step.wanted {
            None => (qkv, residual, &step.rows),
            Some(wanted) => (
                gather_rows(device, &qkv, &wanted.indices)?,
                gather_rows(device, &residual, &wanted.indices)?,
                &wanted.rows,
            ),
        };
        self.finish((device, last), (&qkv, rows), (kv, others.len()), &mut residual)?;
        let normed = rms_norm(device, &residual, &self.norm, self.shape.epsilon)?;
        let head = self.lm_head.as_ref().unwrap_or(&self.embed_tokens);
        linear_f32(device, &normed, head)
    }

    /// Queries, keys and values of all rows, rotated.
    fn keys(&self, device: &Device, layer: &Layer, x: (&Tensor, &Angles)) -> Result<Tensor> {
        let (residual, angles) = x;
        let normed = rms_norm(device, residual, &layer.input_layernorm, self.shape.epsilon)?;
        let mut qkv = linear(device, &normed, &layer.qkv, Activation::None)?;
        rotary(device, &mut qkv, angles, 0..self.shape.n_heads + self.shape.kv.n_kv_heads)?;
        Ok(qkv)
    }

    /// Attention to the cache, and what follows it in a layer.
    fn finish(
        &self,
        (device, layer): (&Device, &Layer),
        (qkv, rows): (&Tensor, &PagedRows),
        kv: (&KvPool, usize),
        residual: &mut Tensor,
    ) -> Result<()> {
        let attended = attention_paged(device, qkv, self.shape.n_heads, kv, rows)?;
        linear_add(device, &attended, &layer.o_proj, residual)?;
        let weight = &layer.post_attention_layernorm;
        let normed = rms_norm(device, residual, weight, self.shape.epsilon)?;
        let inner = linear(device, &normed, &layer.gate_up, Activation::SwiGlu)?;
        linear_add(device, &inner, &layer.down_proj, residual)
    }

    fn check(&self, kv: &KvPool) -> Result<()> {
        let layout = kv.layout;
        let cached = (layout.n_layers, layout.n_kv_heads, layout.head_dim);
        let own = (self.shape.kv.n_layers, self.shape.kv.n_kv_heads, self.shape.kv.head_dim);
        if cached == own {
            return Ok(());
        }
        Err(misfit("the cache has another shape than the model's"))
    }
}

impl Layer {
    fn load(at: &Scope<'_>, shape: &DecoderShape) -> Result<Self> {
        let DecoderShape { width, n_heads, kv, mlp_width, .. } = *shape;
        let (q, kv) = (n_heads * kv.head_dim, kv.n_kv_heads * kv.head_dim);
        let attention = at.at("self_attn");
        let parts = [("q_proj", q), ("k_proj", kv), ("v_proj", kv)];
        Ok(Self {
            input_layernorm: at.vector("input_layernorm.weight", width)?,
            qkv: attention.stacked(&parts, width, shape.qkv_bias)?,
            o_proj: attention.linear("o_proj", (width, q), Bias::Without)?,
            post_attention_layernorm: at.vector("post_attention_layernorm.weight", width)?,
            gate_up: at.at("mlp").gated(["gate_proj", "up_proj"], (mlp_width, width))?,
            down_proj: at.at("mlp").linear("down_proj", (width, mlp_width), Bias::Without)?,
        })
    }
}

fn misfit(what: &str) -> Error {
    Error::internal(format!("decoder step: {what}"))
}
