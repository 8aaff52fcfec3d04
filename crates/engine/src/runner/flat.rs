//! A batch with its rows in one line, as a model reads it.

use super::StepWork;
use crate::live::Live;
use models::{EmbeddingRows, SeqRows, StepInput};
use scheduler::SeqStep;
use std::sync::Arc;
use tensor::SlabRange;
use tensor::ops::carry::KNOWN;
use types::{Error, Result, TokenId};

/// A batch with its rows in one line, sequence after sequence.
#[derive(Default)]
pub(super) struct FlatStep<'a> {
    tokens: Vec<TokenId>,
    /// Rows whose token is a sample of the step before, and which.
    carried: Vec<(usize, u32)>,
    positions: Vec<[u32; 3]>,
    seqs: Vec<SeqRows<'a>>,
    pub(super) embeddings: Vec<EmbeddingRows<'a>>,
    /// The media whose rows the step reads.
    pub(super) media: Vec<Arc<SlabRange>>,
    logit_rows: Vec<usize>,
    /// Per sequence of the batch, which row of the logits is its own (if it has one).
    pub(super) logits_of: Vec<usize>,
}

impl<'a> FlatStep<'a> {
    pub(super) fn new(work: &'a StepWork<'a>) -> Result<Self> {
        let n_rows = work.batch.n_rows();
        let mut flat = Self {
            tokens: Vec::with_capacity(n_rows),
            carried: Vec::new(),
            positions: Vec::with_capacity(n_rows),
            seqs: Vec::with_capacity(work.batch.seqs.len()),
            embeddings: Vec::new(),
            media: Vec::new(),
            logit_rows: Vec::new(),
            logits_of: Vec::with_capacity(work.batch.seqs.len()),
        };
        for step in &work.batch.seqs {
            flat.push(step, work.live(step)?)?;
        }
        Ok(flat)
    }

    fn push(&mut self, step: &'a SeqStep, live: &'a Live) -> Result<()> {
        let positions = step.start_pos..step.start_pos + step.tokens.len();
        self.push_media(step, live)?;
        self.tokens.extend_from_slice(&step.tokens);
        self.positions.extend(positions.map(|idx| live.positions.at(idx)));
        self.seqs.push(SeqRows {
            n_rows: step.tokens.len(),
            start_pos: step.start_pos,
            block_table: &step.block_table,
        });
        self.carried.extend(step.carried.map(|sample| (self.tokens.len() - 1, sample)));
        self.logits_of.push(self.logit_rows.len());
        if step.n_samples > 0 {
            self.logit_rows.push(self.tokens.len() - 1);
        }
        Ok(())
    }

    /// The parts of a sequence's media that lie in its rows of this step, which come next.
    fn push_media(&mut self, step: &SeqStep, live: &'a Live) -> Result<()> {
        let first_row = self.tokens.len();
        let (start, end) = (step.start_pos, step.start_pos + step.tokens.len());
        for (placed, rows) in live.items.iter().zip(&live.rows) {
            let (from, to) = (placed.start.max(start), placed.end().min(end));
            if from >= to {
                continue;
            }
            let of = rows.as_ref().ok_or_else(|| Error::internal("a medium's rows are missing"))?;
            let rows = from - placed.start..to - placed.start;
            self.embeddings.push(EmbeddingRows { first_row: first_row + from - start, of, rows });
            self.media.push(Arc::clone(of));
        }
        Ok(())
    }

    /// Puts in the tokens that the step before sampled, where the host knows them.
    pub(super) fn carry(&mut self, sampled: &[TokenId]) {
        for (row, sample) in self.carried.drain(..) {
            self.tokens[row] = sampled.get(sample as usize).copied().unwrap_or_default();
        }
    }

    /// Per row, which sample of the step before is its token, or [`KNOWN`].
    pub(super) fn sources(&self) -> Vec<u32> {
        let mut sources = vec![KNOWN; self.tokens.len()];
        self.carried.iter().for_each(|&(row, sample)| sources[row] = sample);
        sources
    }

    /// How many rows have logits that are wanted.
    pub(super) fn n_logit_rows(&self) -> usize {
        self.logit_rows.len()
    }

    /// How many sequences there are, if each has one row and one token to be sampled, and none of
    /// them stands for a medium: then a recorded step can serve them.
    pub(super) fn n_decoded(&self, n_samples: usize) -> Option<usize> {
        let n_seqs = self.seqs.len();
        let counts = [self.tokens.len(), self.logit_rows.len(), n_samples];
        (counts == [n_seqs; 3] && self.embeddings.is_empty()).then_some(n_seqs)
    }

    pub(super) fn input(&self) -> StepInput<'_> {
        StepInput {
            tokens: &self.tokens,
            positions: &self.positions,
            seqs: &self.seqs,
            embeddings: &self.embeddings,
            logit_rows: &self.logit_rows,
        }
    }
}
