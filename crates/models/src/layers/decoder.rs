//! A text decoder of the Llama family: RMS norms, grouped-query attention over the paged cache with
//! rotary angles on three axes, a gated MLP.

use crate::layers::rope::{angles_on_axes, inverse_frequencies};
use crate::model::{EmbeddingRows, KvShape, StepInput};
use crate::weights::{Bias, Scope};
use tensor::ops::{
    Activation, Angles, KvRows, PagedSeq, Weight, attention_paged, embedding, kv_write, linear,
    linear_add, rms_norm, rotary,
};
use tensor::{Device, KvPool, Tensor};
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
    /// The head is the embedding.
    pub(crate) is_head_tied: bool,
}

/// A decoder's weights.
#[derive(Debug)]
pub(crate) struct Decoder {
    shape: DecoderShape,
    frequencies: Vec<f32>,
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
        let load_layer = |idx| Layer::load(&at.at("layers").at(idx), &shape);
        let lm_head = match shape.is_head_tied {
            true => None,
            false => Some(root.linear("lm_head", table, Bias::Without)?),
        };
        Ok(Self {
            frequencies: inverse_frequencies(shape.rope_theta, shape.kv.head_dim / 2),
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
        step: &StepInput<'_>,
        kv: &mut KvPool,
    ) -> Result<Tensor> {
        self.check(step, kv)?;
        let mut residual = embedding(device, &self.embed_tokens, step.tokens)?;
        for rows in step.embeddings {
            put_rows(&mut residual, rows)?;
        }
        let angles = angles_on_axes(step.positions, &self.frequencies, &self.shape.rope_axes);
        let spans = Spans::of(step);
        let (last, others) = self.layers.split_last().ok_or_else(|| misfit("no layers"))?;
        for (idx, layer) in others.iter().enumerate() {
            let qkv = self.keys(device, layer, (&residual, &angles))?;
            kv_write(device, &qkv, (kv, idx), &spans.writes)?;
            let seqs = spans.queries();
            let attended = attention_paged(device, &qkv, self.shape.n_heads, (kv, idx), &seqs)?;
            self.finish(device, layer, &attended, &mut residual)?;
        }
        // Behind the last layer's keys only the rows whose logits are wanted matter.
        let qkv = self.keys(device, last, (&residual, &angles))?;
        let idx = others.len();
        kv_write(device, &qkv, (kv, idx), &spans.writes)?;
        let wanted = spans.only(step.logit_rows);
        let (qkv, mut residual) = (pick(&qkv, step.logit_rows), pick(&residual, step.logit_rows));
        let seqs = wanted.queries();
        let attended = attention_paged(device, &qkv, self.shape.n_heads, (kv, idx), &seqs)?;
        self.finish(device, last, &attended, &mut residual)?;
        let normed = rms_norm(device, &residual, &self.norm, self.shape.epsilon)?;
        let head = self.lm_head.as_ref().unwrap_or(&self.embed_tokens);
        linear(device, &normed, head, Activation::None)
    }

    /// Queries, keys and values of all rows, rotated.
    fn keys(&self, device: &Device, layer: &Layer, x: (&Tensor, &Angles)) -> Result<Tensor> {
        let (residual, angles) = x;
        let normed = rms_norm(device, residual, &layer.input_layernorm, self.shape.epsilon)?;
        let mut qkv = linear(device, &normed, &layer.qkv, Activation::None)?;
        rotary(device, &mut qkv, angles, 0..self.shape.n_heads + self.shape.kv.n_kv_heads)?;
        Ok(qkv)
    }

    /// What follows attention in a layer.
    fn finish(
        &self,
        device: &Device,
        layer: &Layer,
        attended: &Tensor,
        residual: &mut Tensor,
    ) -> Result<()> {
        linear_add(device, attended, &layer.o_proj, residual)?;
        let weight = &layer.post_attention_layernorm;
        let normed = rms_norm(device, residual, weight, self.shape.epsilon)?;
        let inner = linear(device, &normed, &layer.gate_up, Activation::SwiGlu)?;
        linear_add(device, &inner, &layer.down_proj, residual)
    }

    fn check(&self, step: &StepInput<'_>, kv: &KvPool) -> Result<()> {
        let n_rows = step.tokens.len();
        let layout = kv.layout;
        let cached = (layout.n_layers, layout.n_kv_heads, layout.head_dim);
        let own = (self.shape.kv.n_layers, self.shape.kv.n_kv_heads, self.shape.kv.head_dim);
        if cached != own {
            return Err(misfit("the cache has another shape than the model's"));
        }
        let rows_fit = step.positions.len() == n_rows
            && step.seqs.iter().map(|seq| seq.n_rows).sum::<usize>() == n_rows;
        let wanted_fit = step.logit_rows.is_sorted() && step.logit_rows.last() < Some(&n_rows);
        if rows_fit && wanted_fit { Ok(()) } else { Err(misfit("the rows do not match")) }
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
            qkv: attention.stacked(&parts, width, Bias::With)?,
            o_proj: attention.linear("o_proj", (width, q), Bias::Without)?,
            post_attention_layernorm: at.vector("post_attention_layernorm.weight", width)?,
            gate_up: at.at("mlp").gated(["gate_proj", "up_proj"], (mlp_width, width))?,
            down_proj: at.at("mlp").linear("down_proj", (width, mlp_width), Bias::Without)?,
        })
    }
}

/// Where the rows of a step's sequences write, and what they see.
struct Spans<'a> {
    writes: Vec<KvRows<'a>>,
    /// For each sequence: first row, first entry in `key_counts`, number of rows.
    rows: Vec<(usize, usize)>,
    key_counts: Vec<usize>,
}

impl<'a> Spans<'a> {
    fn of(step: &StepInput<'a>) -> Self {
        let mut spans = Self { writes: Vec::new(), rows: Vec::new(), key_counts: Vec::new() };
        for seq in step.seqs {
            let first_row = spans.key_counts.len();
            let (n_rows, start_pos) = (seq.n_rows, seq.start_pos);
            let block_table = seq.block_table;
            spans.writes.push(KvRows { first_row, n_rows, start_pos, block_table });
            spans.rows.push((first_row, n_rows));
            spans.key_counts.extend((1..=n_rows).map(|idx| start_pos + idx));
        }
        spans
    }

    /// The same for some rows only, which are then numbered from 0.
    fn only(&self, wanted: &[usize]) -> Self {
        let mut first_row = 0;
        let mut rows = Vec::with_capacity(self.rows.len());
        for &(first, n) in &self.rows {
            let n_wanted = wanted.iter().filter(|&&row| (first..first + n).contains(&row)).count();
            rows.push((first_row, n_wanted));
            first_row += n_wanted;
        }
        let key_counts = wanted.iter().map(|&row| self.key_counts[row]).collect();
        Self { writes: self.writes.clone(), rows, key_counts }
    }

    fn queries(&self) -> Vec<PagedSeq<'_>> {
        let seqs = self.rows.iter().zip(&self.writes);
        seqs.map(|(&(first_row, n), write)| PagedSeq {
            first_row,
            key_counts: &self.key_counts[first_row..first_row + n],
            block_table: write.block_table,
        })
        .collect()
    }
}

fn put_rows(residual: &mut Tensor, rows: &EmbeddingRows<'_>) -> Result<()> {
    let start = rows.first_row * residual.row_len();
    let place = residual.as_mut_slice::<f32>().get_mut(start..start + rows.rows.len());
    let place = place.ok_or_else(|| misfit("media rows lie outside the step"))?;
    place.copy_from_slice(rows.rows);
    Ok(())
}

/// Some rows of a tensor.
fn pick(x: &Tensor, rows: &[usize]) -> Tensor {
    let mut picked = Tensor::scratch::<f32>(&[rows.len(), x.row_len()]);
    let places = picked.as_mut_slice::<f32>().chunks_exact_mut(x.row_len());
    places.zip(rows).for_each(|(to, &row)| to.copy_from_slice(x.row(row)));
    picked
}

fn misfit(what: &str) -> Error {
    Error::internal(format!("decoder step: {what}"))
}
