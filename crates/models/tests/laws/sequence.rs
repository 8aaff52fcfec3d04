//! A prompt of the goldens, ready to be run, and a cache to run it in.

use crate::golden::{Golden, draw, numbers};
use models::{
    Description, EmbeddingRows, LoadFormat, Model, Positions, PreparedMedia, SeqRows, Step,
    StepInput,
};
use serde_json::Value;
use std::sync::Arc;
use tensor::ops::copy_to_range;
use tensor::{Device, KvLayout, KvPool, Slab, SlabRange, Tensor};
use types::TokenId;
use types::content::Digest;
use types::media::{MediaItem, MediaKind};
use types::prompt::{ExpandedPrompt, expand};

/// Small, so that every prompt takes several blocks.
pub(crate) const BLOCK_SIZE: usize = 16;

/// A loaded model and what planners know of it.
pub(crate) struct Loaded {
    pub(crate) device: Device,
    pub(crate) model: Arc<dyn Model>,
    pub(crate) description: Description,
}

/// A prompt with its encoded media.
pub(crate) struct Prompt {
    pub(crate) expanded: ExpandedPrompt,
    pub(crate) positions: Positions,
    pub(crate) prepared: Vec<PreparedMedia>,
    /// f32 `[media rows, hidden]`.
    pub(crate) rows: Option<SlabRange>,
}

impl Loaded {
    pub(crate) fn open(golden: &Golden, device: &Device) -> Self {
        let model = models::load(&golden.checkpoint, LoadFormat::Auto, device).unwrap();
        let description = models::describe(&golden.checkpoint, LoadFormat::Auto).unwrap();
        Self { device: device.clone(), model, description }
    }

    /// Plans, prepares, encodes and expands a prompt of the goldens.
    pub(crate) fn prompt(&self, prompt: &Value) -> Prompt {
        let pictures: Vec<_> = prompt["pictures"].as_array().unwrap().iter().map(draw).collect();
        let processor = &self.description.processor;
        let prepared: Vec<PreparedMedia> = pictures
            .iter()
            .map(|image| {
                let plan = processor.plan(MediaKind::Image, image.size(), "{}").unwrap();
                processor.prepare(image, &plan, "{}").unwrap()
            })
            .collect();
        let items: Vec<MediaItem> = prepared.iter().map(item).collect();
        let short: Vec<TokenId> =
            numbers(&prompt["short_ids"]).into_iter().map(|id| id as TokenId).collect();
        let placeholders = &self.model.spec().placeholders;
        let expanded = expand(&short, placeholders, &items, usize::MAX).unwrap();
        let borrowed: Vec<&PreparedMedia> = prepared.iter().collect();
        let rows = (!prepared.is_empty()).then(|| self.kept(&self.encode(&borrowed)));
        let positions = self.model.positions(&expanded);
        Prompt { expanded, positions, prepared, rows }
    }

    /// The rows of all media.
    pub(crate) fn encode(&self, media: &[&PreparedMedia]) -> Tensor {
        self.model.encode(&self.device, media).unwrap()
    }

    /// Rows where an engine keeps them.
    pub(crate) fn kept(&self, rows: &Tensor) -> SlabRange {
        let slab = Slab::new(self.device.arena(rows.n_bytes().next_multiple_of(256)).unwrap());
        let mut range = slab.alloc(rows.n_bytes()).unwrap();
        copy_to_range(&self.device, rows, 0..rows.n_rows(), &mut range).unwrap();
        range
    }

    /// One step; its logits in host memory.
    pub(crate) fn forward(&self, input: &StepInput<'_>, kv: &mut KvPool) -> Tensor {
        let step = Step::new(&self.device, self.model.spec(), input).unwrap();
        let logits = self.model.forward(&self.device, &step, kv).unwrap();
        logits.to_host(&self.device).unwrap()
    }

    pub(crate) fn pool(&self, n_blocks: usize) -> KvPool {
        let kv = self.model.spec().kv;
        let layout = KvLayout {
            block_size: BLOCK_SIZE,
            n_layers: kv.n_layers,
            n_kv_heads: kv.n_kv_heads,
            head_dim: kv.head_dim,
            dtype: self.device.compute_dtype(),
        };
        KvPool::on(&self.device, layout, n_blocks).unwrap()
    }

    /// Runs rows `start..end` of one sequence and returns the logits of all of them.
    pub(crate) fn run(
        &self,
        (prompt, tokens): (&Prompt, &[TokenId]),
        (start, end): (usize, usize),
        (kv, table): (&mut KvPool, &[u32]),
    ) -> Tensor {
        let seqs = [SeqRows { n_rows: end - start, start_pos: start, block_table: table }];
        let positions: Vec<[u32; 3]> = (start..end).map(|i| prompt.positions.at(i)).collect();
        let embeddings = prompt.spans(start, end);
        let logit_rows: Vec<usize> = (0..end - start).collect();
        let step = StepInput {
            tokens: &tokens[start..end],
            positions: &positions,
            seqs: &seqs,
            embeddings: &embeddings,
            logit_rows: &logit_rows,
        };
        self.forward(&step, kv)
    }

    /// Greedy tokens behind a prompt whose last logits are `logits`.
    pub(crate) fn greedy(
        &self,
        prompt: &Prompt,
        logits: &[f32],
        n: usize,
        (kv, table): (&mut KvPool, &[u32]),
    ) -> (Vec<TokenId>, Vec<Vec<f32>>) {
        let mut tokens = prompt.expanded.tokens.clone();
        let mut all = vec![logits.to_vec()];
        let mut answer = vec![best(logits)];
        while answer.len() < n {
            tokens.push(answer[answer.len() - 1]);
            let span = (tokens.len() - 1, tokens.len());
            let logits = self.run((prompt, &tokens), span, (kv, table));
            answer.push(best(logits.row(0)));
            all.push(logits.row(0).to_vec());
        }
        (answer, all)
    }
}

impl Prompt {
    /// The media rows that fall into rows `start..end`, by their place in them.
    pub(crate) fn spans(&self, start: usize, end: usize) -> Vec<EmbeddingRows<'_>> {
        let mut first = 0;
        let mut spans = Vec::new();
        for placed in &self.expanded.items {
            let (from, to) = (placed.start.max(start), placed.end().min(end));
            if from < to {
                let at = first + from - placed.start;
                let of = self.rows.as_ref().unwrap();
                spans.push(EmbeddingRows { first_row: from - start, of, rows: at..at + to - from });
            }
            first += placed.item.n_tokens as usize;
        }
        spans
    }

    pub(crate) fn len(&self) -> usize {
        self.expanded.tokens.len()
    }
}

/// The index of the largest logit.
pub(crate) fn best(logits: &[f32]) -> TokenId {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.unwrap().0 as TokenId
}

/// Blocks `0..` in order, enough for `n_tokens`.
pub(crate) fn table_for(n_tokens: usize) -> Vec<u32> {
    (0..n_tokens.div_ceil(BLOCK_SIZE) as u32).collect()
}

/// The bits of all elements.
pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn item(prepared: &PreparedMedia) -> MediaItem {
    MediaItem {
        kind: MediaKind::Image,
        digest: Digest::default(),
        grid: prepared.plan.grid,
        n_tokens: prepared.plan.n_tokens,
    }
}
