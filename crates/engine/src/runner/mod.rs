//! From a scheduled batch to sampled tokens: a step is launched, and its tokens are collected.

mod flat;
mod gpu;
mod graphs;
mod host;
mod model;

use crate::config::{Backend, EngineConfig};
use crate::live::Live;
use crate::mock::MockRunner;
pub(crate) use host::known;
use model::ModelRunner;
use models::{Positions, PreparedMedia};
use scheduler::{Batch, Scheduler, SeqStep};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tensor::cuda::{Event, Urgency};
use tensor::ops::sample::{Draw, Sampled};
use tensor::{KvPool, SlabRange};
use types::output::OutputToken;
use types::prompt::ExpandedPrompt;
use types::{Error, RequestId, Result};

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

/// A step that has been given to the device.
pub(crate) enum Launched {
    /// One token, or why there is none, for each sample of the batch.
    Done(Vec<Result<OutputToken>>),
    /// The tokens are still to come.
    OnGpu {
        sampled: Sampled,
        /// Rows that the step reads: theirs alone until it is over.
        media: Vec<Arc<SlabRange>>,
    },
}

impl Runner {
    /// Errors: the device has no memory left.
    pub(crate) fn new(backend: Backend, kv: KvPool, cfg: &EngineConfig) -> Result<Self> {
        Ok(match backend {
            Backend::Model(model, device) => {
                Self::Model(Box::new(ModelRunner::new((model, device), kv, cfg)?))
            }
            Backend::Mock(mock) => Self::Mock(Box::new(MockRunner::new(*mock, kv))),
        })
    }

    pub(crate) fn positions(&self, prompt: &ExpandedPrompt) -> Positions {
        match self {
            Self::Model(runner) => runner.positions(prompt),
            Self::Mock(_) => Positions::default(),
        }
    }

    /// Begins to put the rows of all media, f32 `[n_tokens, hidden_size]` each, where `places`
    /// says, beside steps as `urgency` says; without an event to wait for they are there.
    pub(crate) fn encode(
        &self,
        urgency: Urgency,
        media: &[&PreparedMedia],
        places: &mut [&mut SlabRange],
    ) -> Result<Option<Event>> {
        match self {
            Self::Model(runner) => runner.encode(urgency, media, places),
            Self::Mock(runner) => runner.encode(media, places).map(|()| None),
        }
    }

    /// Gives a step to the device.
    pub(crate) fn launch(&mut self, work: &StepWork<'_>) -> Result<Launched> {
        match self {
            Self::Model(runner) => runner.launch(work),
            Self::Mock(runner) => Ok(Launched::Done(runner.step(work)?)),
        }
    }

    /// Waits for the tokens of a step; steps are collected in the order of their launches.
    pub(crate) fn collect(&mut self, launched: Launched) -> Result<Vec<Result<OutputToken>>> {
        match (self, launched) {
            (_, Launched::Done(tokens)) => Ok(tokens),
            (Self::Model(runner), Launched::OnGpu { sampled, media }) => {
                let tokens = runner.collect(&sampled);
                drop(media);
                tokens
            }
            (Self::Mock(_), Launched::OnGpu { .. }) => {
                Err(Error::internal("a step came from another device"))
            }
        }
    }

    /// Makes ready what would otherwise be made at the first step that needs it. Errors: the device
    /// fails.
    pub(crate) fn warm_up(&mut self) -> Result<()> {
        match self {
            Self::Model(runner) => runner.warm_up(),
            Self::Mock(_) => Ok(()),
        }
    }

    /// Waits until the device has done everything given to it. Errors: the device is lost.
    pub(crate) fn synchronize(&self) -> Result<()> {
        match self {
            Self::Model(runner) => runner.synchronize(),
            Self::Mock(runner) => runner.synchronize(),
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
            // What stands behind is what this step samples. A token that is carried is not known
            // here either, but whatever needs it waited for it; its place counts.
            let tokens = &tokens[..step.start_pos + step.tokens.len()];
            let (prompt, answer) = tokens.split_at(live.question_len.min(tokens.len()));
            for choice in step.first_choice..step.first_choice + step.n_samples {
                let (params, end_ids) = (&live.sampling, &live.end_ids[..]);
                draws.push((idx, Draw { params, prompt, answer, choice, end_ids }));
            }
        }
        Ok(draws)
    }
}

/// Runs device code; a panic becomes an error of the requests concerned.
pub(crate) fn guarded<T>(run: impl FnOnce() -> Result<T>) -> Result<T> {
    let outcome = catch_unwind(AssertUnwindSafe(run));
    outcome.unwrap_or_else(|_| Err(Error::internal("the engine failed while computing")))
}
