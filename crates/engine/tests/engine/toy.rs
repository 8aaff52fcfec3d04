//! A model of hashes: the KV of a token is a hash of all KV before it, its embedding and its
//! position, and the logits are hashes of all KV so far. Any wrong block, row, position or order
//! changes them.

use models::{EmbeddingRows, KvShape, Model, ModelSpec, Positions, PreparedMedia, Step};
use std::sync::Arc;
use tensor::{Device, KvPool, Tensor};
use types::media::MediaKind;
use types::prompt::{ExpandedPrompt, Placeholder};
use types::{Error, Result, TokenId};

pub(crate) const EOS: TokenId = 0;
pub(crate) const PLACEHOLDER: TokenId = 63;
/// The step that computes this token fails.
pub(crate) const FAILS: TokenId = 62;
/// The step that computes this token panics.
pub(crate) const PANICS: TokenId = 61;
/// The logits behind this token are not numbers.
pub(crate) const NOT_A_NUMBER: TokenId = 60;
const VOCAB: usize = 64;
const HIDDEN: usize = 4;

pub(crate) struct Toy {
    spec: ModelSpec,
}

impl Toy {
    pub(crate) fn model() -> Arc<dyn Model> {
        let placeholder = Placeholder { kind: MediaKind::Image, token: PLACEHOLDER };
        Arc::new(Self {
            spec: ModelSpec {
                architecture: "Toy",
                vocab_size: VOCAB,
                hidden_size: HIDDEN,
                n_heads: 1,
                kv: KvShape { n_layers: 1, n_kv_heads: 1, head_dim: 2 },
                max_seq_len: 4096,
                placeholders: vec![placeholder],
                eos_token_ids: vec![EOS],
            },
        })
    }
}

impl Model for Toy {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn encode(&self, _: &Device, media: &[&PreparedMedia]) -> Result<Tensor> {
        let mut rows = Vec::new();
        for one in media {
            let grid = one.plan.grid;
            let size = mix(u64::from(grid.t), mix(u64::from(grid.h), u64::from(grid.w)));
            let content = one.pixels.iter().fold(size, |hash, byte| mix(hash, u64::from(*byte)));
            if one.pixels.first() == Some(&13) {
                return Err(Error::internal("an unlucky picture"));
            }
            let n_values = one.plan.n_tokens as u64 * HIDDEN as u64;
            rows.extend((0..n_values).map(|idx| (mix(content, idx) >> 40) as f32));
        }
        Ok(Tensor::from_slice(&[rows.len() / HIDDEN, HIDDEN], &rows))
    }

    /// A medium takes half as many positions as it has rows.
    fn positions(&self, prompt: &ExpandedPrompt) -> Positions {
        let (mut rows, mut next) = (Vec::new(), 0_u32);
        let mut items = prompt.items.iter();
        let mut item = items.next();
        while rows.len() < prompt.tokens.len() {
            match item.filter(|placed| placed.start == rows.len()) {
                Some(placed) => {
                    let n_rows = placed.item.n_tokens;
                    rows.extend((0..n_rows).map(|row| [next, next + row / 2, next + row % 2]));
                    next += n_rows.div_ceil(2);
                    item = items.next();
                }
                None => {
                    rows.push([next; 3]);
                    next += 1;
                }
            }
        }
        let delta = i64::from(next) - rows.len() as i64;
        Positions { rows, delta }
    }

    fn forward(&self, _: &Device, step: &Step<'_>, kv: &mut KvPool) -> Result<Tensor> {
        let tokens = step.tokens.as_slice::<u32>();
        if tokens.contains(&FAILS) {
            return Err(Error::internal("an unlucky token"));
        }
        assert!(!tokens.contains(&PANICS), "a very unlucky token");
        let key_counts = step.rows.key_counts.as_slice::<u32>().iter();
        let owners = step.rows.seq_of_row.as_slice::<u32>().iter();
        let outputs: Vec<u64> = owners
            .zip(key_counts)
            .enumerate()
            .map(|(row, (&seq, &count))| {
                let table = step.rows.table(seq as usize);
                compute(kv, table, count as usize - 1, input(step, row))
            })
            .collect();
        let all: Vec<u32> = (0..tokens.len() as u32).collect();
        let wanted = step.wanted.as_ref().map_or(&all[..], |wanted| wanted.indices.as_slice());
        let mut logits = Vec::with_capacity(wanted.len() * VOCAB);
        for row in wanted.iter().map(|&row| row as usize) {
            let broken = tokens[row] == NOT_A_NUMBER;
            let value = |token| (mix(outputs[row], token) >> 40) as f32 / (1 << 22) as f32;
            let value = |token| if broken { f32::NAN } else { value(token) };
            // The odd tokens at the end never come by themselves.
            let common = 0..NOT_A_NUMBER as u64;
            logits.extend(common.map(value));
            logits.resize(logits.len().next_multiple_of(VOCAB), -50.0);
        }
        Ok(Tensor::from_slice(&[wanted.len(), VOCAB], &logits))
    }
}

/// What a row brings: its token or embedding, and its position.
fn input(step: &Step<'_>, row: usize) -> u64 {
    let position = &step.positions.as_slice::<u32>()[3 * row..][..3];
    let position = position.iter().fold(7, |hash, axis| mix(hash, u64::from(*axis)));
    let inside = |span: &&EmbeddingRows<'_>| {
        (span.first_row..span.first_row + span.rows.len()).contains(&row)
    };
    match step.embeddings.iter().find(inside) {
        Some(span) => {
            let first = (span.rows.start + row - span.first_row) * HIDDEN;
            let values = &span.of.as_slice::<f32>()[first..first + HIDDEN];
            values.iter().fold(position, |hash, value| mix(hash, u64::from(value.to_bits())))
        }
        None => mix(position, u64::from(step.tokens.as_slice::<u32>()[row])),
    }
}

/// Reads the KV of all positions before `pos`, writes that of `pos`; gives a hash of all of it.
fn compute(kv: &mut KvPool, table: &[u32], pos: usize, input: u64) -> u64 {
    let before = (0..pos).fold(11, |hash, pos| mix(hash, *slot(kv, table, pos)));
    *slot(kv, table, pos) = mix(before, input);
    mix(before, *slot(kv, table, pos))
}

fn slot<'a>(kv: &'a mut KvPool, table: &[u32], pos: usize) -> &'a mut u64 {
    let size = kv.layout.block_size;
    let block = table[pos / size] as usize;
    assert!(block < kv.n_blocks);
    // SAFETY: the block lies in the arena and a key has eight bytes (two floats); only this thread
    // touches the pool during a step.
    unsafe {
        let block = kv.arena.base().add(block * kv.layout.block_bytes());
        &mut *block.cast::<u64>().add(pos % size)
    }
}

fn mix(a: u64, b: u64) -> u64 {
    let mut z = a.rotate_left(23) ^ b.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
