//! From a scheduled batch to sampled tokens: flattens the batch for the model, copies shared
//! blocks, and samples the rows whose logits are wanted.

use crate::config::Backend;
use crate::kv::copy_blocks;
use crate::live::Live;
use crate::mock::MockRunner;
use models::{EmbeddingRows, Model, Positions, PreparedMedia, SeqRows, StepInput};
use scheduler::{Batch, Scheduler, SeqStep};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tensor::KvPool;
use tensor::ops::sample::{Draw, Sampler};
use types::output::OutputToken;
use types::prompt::ExpandedPrompt;
use types::{Error, RequestId, Result, TokenId};

/// What computes, with what it needs from step to step.
pub(crate) enum Runner {
    Model(Box<ModelRunner>),
    Mock(Box<MockRunner>),
}

/// All that a step may look at.
pub(crate) struct StepWork<'a> {
    pub(crate) batch: &'a Batch,
    pub(crate) live: &'a HashMap<RequestId, Live>,
    pub(crate) scheduler: &'a Scheduler,
}

impl Runner {
    pub(crate) fn new(backend: Backend, kv: KvPool) -> Self {
        match backend {
            Backend::Model(model) => {
                Self::Model(Box::new(ModelRunner { model, kv, sampler: Sampler::default() }))
            }
            Backend::Mock(mock) => Self::Mock(Box::new(MockRunner::new(mock, kv))),
        }
    }

    pub(crate) fn positions(&self, prompt: &ExpandedPrompt) -> Positions {
        match self {
            Self::Model(runner) => runner.model.positions(prompt),
            Self::Mock(_) => Positions::default(),
        }
    }

    /// The rows of all media, one after the other. `[sum of n_tokens, hidden_size]`
    pub(crate) fn encode(&self, media: &[&PreparedMedia]) -> Result<Vec<f32>> {
        match self {
            Self::Model(runner) => Ok(runner.model.encode(media)?.as_f32().to_vec()),
            Self::Mock(runner) => Ok(runner.encode(media)),
        }
    }

    /// Runs a step; one token, or why there is none, for each sample of the batch.
    pub(crate) fn step(&mut self, work: &StepWork<'_>) -> Result<Vec<Result<OutputToken>>> {
        match self {
            Self::Model(runner) => runner.step(work),
            Self::Mock(runner) => runner.step(work),
        }
    }
}

impl StepWork<'_> {
    fn live(&self, step: &SeqStep) -> Result<&Live> {
        self.live.get(&step.request).ok_or_else(|| Error::internal("a request lost its state"))
    }

    /// What decides each sample of the step, in order, with the index of its sequence in the batch.
    pub(crate) fn draws(&self) -> Result<Vec<(usize, Draw<'_>)>> {
        let mut draws = Vec::with_capacity(self.batch.n_samples());
        for (idx, step) in self.batch.seqs.iter().enumerate().filter(|(_, s)| s.n_samples > 0) {
            let live = self.live(step)?;
            let seq = self.scheduler.sequence(step.rank);
            let tokens = seq.ok_or_else(|| Error::internal("a sequence is gone"))?.tokens();
            let (prompt, answer) = tokens.split_at(live.question_len.min(tokens.len()));
            for choice in step.first_choice..step.first_choice + step.n_samples {
                let (params, end_ids) = (&live.sampling, &live.end_ids[..]);
                draws.push((idx, Draw { params, prompt, answer, choice, end_ids }));
            }
        }
        Ok(draws)
    }
}

/// A real model.
pub(crate) struct ModelRunner {
    model: Arc<dyn Model>,
    kv: KvPool,
    sampler: Sampler,
}

impl ModelRunner {
    fn step(&mut self, work: &StepWork<'_>) -> Result<Vec<Result<OutputToken>>> {
        copy_blocks(&mut self.kv, &work.batch.copies);
        let flat = FlatStep::new(work, self.model.spec().hidden_size)?;
        let logits = self.model.forward(&flat.input(), &mut self.kv)?;
        let draws = work.draws()?;
        let mut tokens = Vec::with_capacity(draws.len());
        for (seq_idx, draw) in draws {
            tokens.push(self.sampler.sample(logits.row(flat.logits_of[seq_idx]), &draw));
        }
        Ok(tokens)
    }
}

/// A batch with its rows in one line, sequence after sequence.
struct FlatStep<'a> {
    tokens: Vec<TokenId>,
    positions: Vec<[u32; 3]>,
    seqs: Vec<SeqRows<'a>>,
    embeddings: Vec<EmbeddingRows<'a>>,
    logit_rows: Vec<usize>,
    /// Per sequence of the batch, which row of the logits is its own (if it has one).
    logits_of: Vec<usize>,
}

impl<'a> FlatStep<'a> {
    fn new(work: &'a StepWork<'a>, hidden_size: usize) -> Result<Self> {
        let n_rows = work.batch.n_rows();
        let mut flat = Self {
            tokens: Vec::with_capacity(n_rows),
            positions: Vec::with_capacity(n_rows),
            seqs: Vec::with_capacity(work.batch.seqs.len()),
            embeddings: Vec::new(),
            logit_rows: Vec::new(),
            logits_of: Vec::with_capacity(work.batch.seqs.len()),
        };
        for step in &work.batch.seqs {
            flat.push(step, work.live(step)?, hidden_size)?;
        }
        Ok(flat)
    }

    fn push(&mut self, step: &'a SeqStep, live: &'a Live, hidden_size: usize) -> Result<()> {
        let first_row = self.tokens.len();
        let positions = step.start_pos..step.start_pos + step.tokens.len();
        self.embeddings.extend(embedding_spans(step, live, first_row, hidden_size)?);
        self.tokens.extend_from_slice(&step.tokens);
        self.positions.extend(positions.map(|idx| live.positions.at(idx)));
        self.seqs.push(SeqRows {
            n_rows: step.tokens.len(),
            start_pos: step.start_pos,
            block_table: &step.block_table,
        });
        self.logits_of.push(self.logit_rows.len());
        if step.n_samples > 0 {
            self.logit_rows.push(self.tokens.len() - 1);
        }
        Ok(())
    }

    fn input(&self) -> StepInput<'_> {
        StepInput {
            tokens: &self.tokens,
            positions: &self.positions,
            seqs: &self.seqs,
            embeddings: &self.embeddings,
            logit_rows: &self.logit_rows,
        }
    }
}

/// The parts of a sequence's media that lie in its rows of this step.
fn embedding_spans<'a>(
    step: &SeqStep,
    live: &'a Live,
    first_row: usize,
    hidden_size: usize,
) -> Result<Vec<EmbeddingRows<'a>>> {
    let (start, end) = (step.start_pos, step.start_pos + step.tokens.len());
    let mut spans = Vec::new();
    for (placed, rows) in live.items.iter().zip(&live.rows) {
        let (from, to) = (placed.start.max(start), placed.end().min(end));
        if from >= to {
            continue;
        }
        let rows = rows.as_ref().ok_or_else(|| Error::internal("a medium's rows are missing"))?;
        let part = (from - placed.start) * hidden_size..(to - placed.start) * hidden_size;
        let rows = &rows.as_slice::<f32>()[part];
        spans.push(EmbeddingRows { first_row: first_row + from - start, rows });
    }
    Ok(spans)
}

/// Runs device code; a panic becomes an error of the requests concerned.
pub(crate) fn guarded<T>(run: impl FnOnce() -> Result<T>) -> Result<T> {
    let outcome = catch_unwind(AssertUnwindSafe(run));
    outcome.unwrap_or_else(|_| Err(Error::internal("the engine failed while computing")))
}
