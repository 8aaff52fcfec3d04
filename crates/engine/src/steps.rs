//! Steps of the model, from plan to tokens: launched, then collected in the same order.

use crate::core::Core;
use crate::runner::{Launched, StepWork, guarded};
use scheduler::{Batch, SeqStep};
use std::collections::VecDeque;
use std::time::Instant;
use types::output::OutputToken;
use types::{Error, ErrorKind, Result};

/// After so many failed steps in a row it is not the requests that are at fault.
const FAILURES_MAX: u32 = 3;

/// The steps under way, and how those before them went.
pub(crate) struct Steps {
    in_flight: VecDeque<InFlight>,
    n_in_flight_max: usize,
    n_failures: u32,
    last_ended: Option<Instant>,
}

/// A step under way. One that could not be launched stands in line as well: blocks come back in the
/// order of steps.
struct InFlight {
    batch: Batch,
    launched: Result<Launched>,
    since: Instant,
}

impl Steps {
    /// `overlap`: the next is planned and launched while one runs.
    pub(crate) fn new(overlap: bool) -> Self {
        let n_in_flight_max = if overlap { 2 } else { 1 };
        Self { in_flight: VecDeque::new(), n_in_flight_max, n_failures: 0, last_ended: None }
    }

    /// Sequences in the step that was launched last, if it is still under way.
    pub(crate) fn n_seqs(&self) -> usize {
        self.in_flight.back().map_or(0, |step| step.batch.seqs.len())
    }

    /// Whether the last ones failed, one after the other.
    pub(crate) fn are_failing(&self) -> bool {
        self.n_failures >= FAILURES_MAX
    }

    /// Forgets all that are under way.
    pub(crate) fn clear(&mut self) {
        self.in_flight.clear();
    }
}

impl Core {
    /// Plans a step and gives it to the device; false when no sequence can go on now.
    pub(crate) fn launch(&mut self) -> bool {
        let Some(batch) = self.scheduler.next_batch() else { return false };
        let since = Instant::now();
        let work = StepWork { batch: &batch, live: &self.live, scheduler: &self.scheduler };
        let launched = guarded(|| self.runner.launch(&work));
        self.steps.in_flight.push_back(InFlight { batch, launched, since });
        true
    }

    /// Waits for the oldest step under way, if no more may be launched before it is over, or none
    /// could be; false when there is nothing to wait for.
    pub(crate) fn collect(&mut self, has_launched: bool) -> bool {
        if has_launched && self.steps.in_flight.len() < self.steps.n_in_flight_max {
            return false;
        }
        let Some(step) = self.steps.in_flight.pop_front() else { return false };
        let InFlight { batch, launched, since } = step;
        match launched.and_then(|launched| guarded(|| self.runner.collect(launched))) {
            Ok(samples) => {
                // A step of nothing but surplus is no sign of health: it stems from one that
                // failed.
                let is_wanted = |seq: &SeqStep| self.scheduler.sequence(seq.rank).is_some();
                if batch.seqs.iter().any(is_wanted) {
                    self.steps.n_failures = 0;
                }
                let tokens = self.accept(&batch, samples);
                self.scheduler.finish(&batch, tokens);
                self.count(&batch, since);
            }
            Err(error) => self.fail(&batch, &error),
        }
        true
    }

    fn fail(&mut self, batch: &Batch, error: &Error) {
        self.steps.n_failures += 1;
        self.stats.n_failed_steps += 1;
        if let Err(lost) = self.runner.synchronize() {
            // Those in the step are told like all others: somebody else can still answer them.
            return self.device_is_lost(&lost);
        }
        if self.steps.are_failing() {
            let words = "the engine fails at each step";
            return self.scheduler.fail(batch, &Error::new(ErrorKind::Unavailable, words));
        }
        self.scheduler.fail(batch, error);
    }

    /// The tokens of a step; a request whose token could not be chosen fails alone, unless it did
    /// not need it any more.
    fn accept(&mut self, batch: &Batch, samples: Vec<Result<OutputToken>>) -> Vec<OutputToken> {
        let owners = batch.seqs.iter();
        let owners = owners.flat_map(|seq| std::iter::repeat_n(seq, seq.n_samples as usize));
        let mut tokens = Vec::with_capacity(samples.len());
        for (seq, sample) in owners.zip(samples) {
            tokens.push(sample.unwrap_or_else(|error| {
                if self.scheduler.sequence(seq.rank).is_some() {
                    self.scheduler.fail_request(seq.request, &error);
                }
                // Nobody sees it: the sequence is gone.
                OutputToken { token: 0, logprob: None, top_logprobs: Vec::new() }
            }));
        }
        tokens
    }

    /// A step that was launched while another ran took only the time since that one's end.
    fn count(&mut self, batch: &Batch, since: Instant) {
        let ended = Instant::now();
        let began = self.steps.last_ended.replace(ended).map_or(since, |last| last.max(since));
        let stats = &mut self.stats;
        stats.n_steps += 1;
        stats.n_rows += batch.n_rows() as u64;
        stats.n_sampled += batch.n_samples() as u64;
        stats.last_step_us = (ended - began).as_micros() as u64;
        stats.step_us += stats.last_step_us;
        stats.last_step_seqs = batch.seqs.len();
    }
}
