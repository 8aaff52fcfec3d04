//! From a scheduled batch to sampled tokens: flattens the batch for the model, copies shared
//! blocks, and samples the rows whose logits are wanted.

use crate::config::Backend;
use crate::kv::copy_blocks;
use crate::live::Live;
use crate::mock::MockRunner;
use models::{EmbeddingRows, Model, Positions, PreparedMedia, SeqRows, Step, StepInput};
use scheduler::{Batch, Scheduler, SeqStep};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tensor::ops::copy_to_range;
use tensor::ops::sample::{Draw, Sampler};
use tensor::{Device, KvPool, SlabRange};
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
            Backend::Model(model, device) => {
                let sampler = Sampler::default();
                Self::Model(Box::new(ModelRunner { model, device, kv, sampler }))
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

    /// Puts the rows of all media, f32 `[n_tokens, hidden_size]` each, where `places` says.
    pub(crate) fn encode(
        &self,
        media: &[&PreparedMedia],
        places: &mut [&mut SlabRange],
    ) -> Result<()> {
        match self {
            Self::Model(runner) => runner.encode(media, places),
            Self::Mock(runner) => runner.encode(media, places),
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
    device: Device,
    kv: KvPool,
    sampler: Sampler,
}

impl ModelRunner {
    fn encode(&self, media: &[&PreparedMedia], places: &mut [&mut SlabRange]) -> Result<()> {
        let rows = self.model.encode(&self.device, media)?;
        let n_rows: usize = media.iter().map(|one| one.plan.n_tokens as usize).sum();
        if rows.n_rows() != n_rows {
            return Err(Error::internal("the tower made other rows than were planned"));
        }
        let mut first = 0;
        for (medium, place) in media.iter().zip(places) {
            let own = first..first + medium.plan.n_tokens as usize;
            first = own.end;
            copy_to_range(&self.device, &rows, own, place)?;
        }
        // Whoever is told that the rows are ready may read them from elsewhere.
        self.device.synchronize()
    }

    fn step(&mut self, work: &StepWork<'_>) -> Result<Vec<Result<OutputToken>>> {
        copy_blocks(&mut self.kv, &work.batch.copies);
        let flat = FlatStep::new(work)?;
        let step = Step::new(&self.device, self.model.spec(), &flat.input())?;
        let logits = self.model.forward(&self.device, &step, &mut self.kv)?;
        let logits = logits.to_host(&self.device)?;
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
    fn new(work: &'a StepWork<'a>) -> Result<Self> {
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
            flat.push(step, work.live(step)?)?;
        }
        Ok(flat)
    }

    fn push(&mut self, step: &'a SeqStep, live: &'a Live) -> Result<()> {
        let first_row = self.tokens.len();
        let positions = step.start_pos..step.start_pos + step.tokens.len();
        self.embeddings.extend(embedding_spans(step, live, first_row)?);
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
) -> Result<Vec<EmbeddingRows<'a>>> {
    let (start, end) = (step.start_pos, step.start_pos + step.tokens.len());
    let mut spans = Vec::new();
    for (placed, rows) in live.items.iter().zip(&live.rows) {
        let (from, to) = (placed.start.max(start), placed.end().min(end));
        if from >= to {
            continue;
        }
        let of = rows.as_ref().ok_or_else(|| Error::internal("a medium's rows are missing"))?;
        let rows = from - placed.start..to - placed.start;
        spans.push(EmbeddingRows { first_row: first_row + from - start, of, rows });
    }
    Ok(spans)
}

/// Runs device code; a panic becomes an error of the requests concerned.
pub(crate) fn guarded<T>(run: impl FnOnce() -> Result<T>) -> Result<T> {
    let outcome = catch_unwind(AssertUnwindSafe(run));
    outcome.unwrap_or_else(|_| Err(Error::internal("the engine failed while computing")))
}
