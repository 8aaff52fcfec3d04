//! The engine's thread: take commands, run a step, encode a batch, deliver events; park when idle.

use crate::command::Command;
use crate::config::{Backend, EngineConfig};
use crate::encoder::{Encoder, Supplied};
use crate::engine::Shared;
use crate::live::{Live, new_import, new_request};
use crate::mailbox::Wait;
use crate::request::{ImportRequest, SeqEvent, SeqRequest, SeqSink};
use crate::runner::{Runner, StepWork, guarded};
use crate::stats::EngineStats;
use scheduler::{Batch, Event, EventKind, Scheduler};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::Instant;
use tensor::SlabRange;
use types::output::OutputToken;
use types::{Error, ErrorKind, RequestId, Result, TokenId};

/// After so many failed steps in a row the engine calls itself unhealthy.
const FAILURES_MAX: u32 = 3;

/// All that lives on the engine's thread.
pub(crate) struct Core {
    shared: Arc<Shared>,
    runner: Runner,
    scheduler: Scheduler,
    encoder: Encoder,
    live: HashMap<RequestId, Live>,
    eos_token_ids: Vec<TokenId>,
    stats: EngineStats,
    n_failures: u32,
    wait: Wait,
}

impl Core {
    pub(crate) fn new(backend: Backend, cfg: &EngineConfig, shared: Arc<Shared>) -> Result<Self> {
        let encoder = Encoder::new(&cfg.scheduler, backend.spec());
        let core = Self {
            runner: Runner::new(backend, shared.kv.clone()),
            scheduler: Scheduler::new(cfg.scheduler.clone())?,
            encoder,
            live: HashMap::new(),
            eos_token_ids: cfg.eos_token_ids.clone(),
            stats: EngineStats::default(),
            n_failures: 0,
            wait: Wait::Forever,
            shared,
        };
        core.publish();
        Ok(core)
    }

    /// Runs until the mailbox closes. A panic outside a step is a fault in the engine itself: all
    /// requests fail, and so does everything asked later.
    pub(crate) fn run(mut self) {
        if catch_unwind(AssertUnwindSafe(|| while self.turn() {})).is_err() {
            self.stats.healthy = false;
            self.refuse_all();
        }
    }

    /// One turn of the loop; false once the mailbox is closed.
    fn turn(&mut self) -> bool {
        let Some(commands) = self.shared.mailbox.take(self.wait) else { return false };
        commands.into_iter().for_each(|command| self.obey(command));
        // Before the step: whoever is to bring rows begins while it runs.
        self.deliver();
        let has_stepped = self.step();
        let has_encoded = self.encode();
        self.deliver();
        self.wait = self.next_wait(has_stepped || has_encoded);
        self.publish();
        true
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Encode(job, sink) => self.encoder.push(*job, sink),
            Command::Submit(request, sink) => self.submit(*request, sink),
            Command::Supply { id, item_idx, rows } => self.supply(id, item_idx, rows),
            Command::Import(request, sink) => self.import(*request, sink),
            Command::Imported(id) => self.scheduler.imported(id),
            Command::FinishChoice { id, choice } => self.scheduler.finish_choice(id, choice),
            Command::Abort(id) => self.abort(id),
            Command::Release(id) => self.scheduler.release(id),
        }
    }

    fn submit(&mut self, request: SeqRequest, mut sink: SeqSink) {
        let id = request.id;
        let accepted =
            guarded(|| Ok(self.runner.positions(&request.prompt))).and_then(|positions| {
                let live = (request.clone(), positions);
                self.scheduler.submit(new_request(request, &self.eos_token_ids)).map(|()| live)
            });
        match accepted {
            Ok((request, positions)) => {
                let live = Live::submitted(&request, positions, &self.eos_token_ids, sink);
                self.live.insert(id, live);
            }
            Err(error) => sink(SeqEvent::Failed(error)),
        }
    }

    fn import(&mut self, request: ImportRequest, mut sink: SeqSink) {
        let accepted = self.scheduler.import(new_import(request.clone(), &self.eos_token_ids));
        match accepted {
            Ok(()) => {
                let live = Live::imported(&request, &self.eos_token_ids, sink);
                self.live.insert(request.id, live);
            }
            Err(error) => sink(SeqEvent::Failed(error)),
        }
    }

    fn supply(&mut self, id: RequestId, item_idx: usize, rows: Arc<SlabRange>) {
        let Some(live) = self.live.get_mut(&id) else { return };
        let Some(placed) = live.items.get(item_idx) else { return };
        let n_bytes = self.encoder.n_bytes(placed.item.n_tokens);
        if rows.n_bytes() != n_bytes {
            let words = format!("item {item_idx} came with {} bytes of rows", rows.n_bytes());
            let error = Error::internal(format!("{words}, {n_bytes} were planned"));
            return self.scheduler.fail_request(id, &error);
        }
        live.rows[item_idx] = Some(rows);
        self.scheduler.supply(id, item_idx);
    }

    fn abort(&mut self, id: RequestId) {
        self.encoder.abort(id);
        self.scheduler.abort(id);
        self.live.remove(&id);
    }

    /// One step of the model; false when no sequence can go on.
    fn step(&mut self) -> bool {
        let Some(batch) = self.scheduler.next_batch() else { return false };
        let started = Instant::now();
        let work = StepWork { batch: &batch, live: &self.live, scheduler: &self.scheduler };
        match guarded(|| self.runner.step(&work)) {
            Ok(samples) => {
                self.n_failures = 0;
                let tokens = self.accept(&batch, samples);
                self.scheduler.finish(&batch, tokens);
                self.count(&batch, started);
            }
            Err(error) => {
                self.n_failures += 1;
                self.stats.n_failed_steps += 1;
                self.scheduler.fail(&batch, &error);
            }
        }
        self.stats.healthy = self.n_failures < FAILURES_MAX;
        true
    }

    /// The tokens of a step; a request whose token could not be chosen fails alone.
    fn accept(&mut self, batch: &Batch, samples: Vec<Result<OutputToken>>) -> Vec<OutputToken> {
        let owners = batch.seqs.iter();
        let owners =
            owners.flat_map(|seq| std::iter::repeat_n(seq.request, seq.n_samples as usize));
        let mut tokens = Vec::with_capacity(samples.len());
        for (id, sample) in owners.zip(samples) {
            tokens.push(sample.unwrap_or_else(|error| {
                self.scheduler.fail_request(id, &error);
                // Nobody sees it: the request is gone.
                OutputToken { token: 0, logprob: None, top_logprobs: Vec::new() }
            }));
        }
        tokens
    }

    /// One batch of media; false when there was none.
    fn encode(&mut self) -> bool {
        let Some(supplied) = self.encoder.run(&self.runner, &mut self.stats) else { return false };
        for Supplied { id, item_idx, rows } in supplied {
            self.supply(id, item_idx, rows);
        }
        true
    }

    fn count(&mut self, batch: &Batch, started: Instant) {
        let stats = &mut self.stats;
        stats.n_steps += 1;
        stats.n_rows += batch.n_rows() as u64;
        stats.n_sampled += batch.n_samples() as u64;
        stats.last_step_us = started.elapsed().as_micros() as u64;
        stats.step_us += stats.last_step_us;
        stats.last_step_seqs = batch.seqs.len();
    }

    fn deliver(&mut self) {
        for Event { id, kind } in self.scheduler.drain_events() {
            let Some(live) = self.live.get_mut(&id) else { continue };
            match kind {
                EventKind::Pinned { cached_tokens, needed_items } => {
                    live.tell(SeqEvent::Pinned { cached_tokens, needed_items });
                }
                EventKind::Tokens { choice, tokens } => {
                    live.tell(SeqEvent::Tokens { choice, tokens });
                }
                EventKind::Finished { choice, reason } => {
                    live.tell(SeqEvent::Finished { choice, reason });
                }
                EventKind::Exported { blocks, n_tokens } => {
                    let positions_delta = live.positions.delta;
                    live.tell(SeqEvent::Exported { blocks, n_tokens, positions_delta });
                }
                EventKind::ImportReady { missing } => live.tell(SeqEvent::ImportReady { missing }),
                EventKind::Preempted { choice } => live.tell(SeqEvent::Preempted { choice }),
                EventKind::Failed(error) => live.tell(SeqEvent::Failed(error)),
                EventKind::Ended => drop(self.live.remove(&id)),
            }
        }
    }

    /// How long the next turn may wait for commands: not at all while there is work.
    fn next_wait(&mut self, has_worked: bool) -> Wait {
        if has_worked {
            return Wait::No;
        }
        if self.scheduler.is_idle() && self.scheduler.check().is_err() {
            self.stats.healthy = false;
        }
        Wait::Forever
    }

    fn publish(&self) {
        let stats = EngineStats {
            scheduler: self.scheduler.stats(),
            n_encode_waiting: self.encoder.len(),
            embedding_bytes_used: self.shared.embeddings.n_bytes_used(),
            embedding_bytes: self.shared.embeddings.arena().n_bytes(),
            ..self.stats
        };
        *self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner) = stats;
    }

    /// Fails everything, now and from now on.
    fn refuse_all(&mut self) {
        let error = Error::new(ErrorKind::Internal, "the engine has broken down");
        self.publish();
        for live in self.live.values_mut() {
            live.tell(SeqEvent::Failed(error.clone()));
        }
        self.live.clear();
        self.encoder.fail_all(&error);
        while let Some(commands) = self.shared.mailbox.take(Wait::Forever) {
            for command in commands {
                match command {
                    Command::Encode(_, sink) => sink(Err(error.clone())),
                    Command::Submit(_, mut sink) | Command::Import(_, mut sink) => {
                        sink(SeqEvent::Failed(error.clone()));
                    }
                    Command::Supply { .. }
                    | Command::Imported(_)
                    | Command::FinishChoice { .. }
                    | Command::Abort(_)
                    | Command::Release(_) => {}
                }
            }
        }
    }
}
