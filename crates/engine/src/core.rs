//! The engine's thread: take commands, plan and launch a step, collect the one before,
//! encode, deliver; park when idle.

use crate::command::Command;
use crate::config::{Backend, EngineConfig};
use crate::encoder::{Encoder, Supplied};
use crate::engine::Shared;
use crate::live::{Live, new_import, new_request};
use crate::mailbox::Wait;
use crate::request::{ImportRequest, SeqEvent, SeqRequest, SeqSink};
use crate::runner::{Runner, guarded};
use crate::stats::{Condition, EngineStats};
use crate::steps::Steps;
use scheduler::{Event, EventKind, Scheduler};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use tensor::SlabRange;
use types::{Error, ErrorKind, RequestId, Result, TokenId};

/// While nothing but the tower works, its rows are looked for this often.
const ENCODED_WITHIN: Duration = Duration::from_micros(200);

/// So long nothing must have happened before the scheduler counts everything again: that takes as
/// long as many steps, so it is for those who have nothing better to do.
const QUIET_BEFORE_CHECK: Duration = Duration::from_millis(10);

/// All that lives on the engine's thread.
pub(crate) struct Core {
    shared: Arc<Shared>,
    pub(crate) runner: Runner,
    pub(crate) scheduler: Scheduler,
    encoder: Encoder,
    pub(crate) live: HashMap<RequestId, Live>,
    pub(crate) steps: Steps,
    eos_token_ids: Vec<TokenId>,
    pub(crate) stats: EngineStats,
    /// Why nothing can be done any more.
    broken: Option<String>,
    wait: Wait,
    /// Since when there has been nothing to do.
    quiet_since: Option<Instant>,
}

impl Core {
    pub(crate) fn new(backend: Backend, cfg: &EngineConfig, shared: Arc<Shared>) -> Result<Self> {
        let encoder = Encoder::new(&cfg.scheduler, backend.spec());
        let core = Self {
            runner: Runner::new(backend, shared.kv.clone(), cfg)?,
            scheduler: Scheduler::new(cfg.scheduler.clone())?,
            encoder,
            live: HashMap::new(),
            steps: Steps::new(cfg.overlap),
            eos_token_ids: cfg.eos_token_ids.clone(),
            stats: EngineStats::default(),
            broken: None,
            wait: Wait::Forever,
            quiet_since: None,
            shared,
        };
        core.publish();
        Ok(core)
    }

    /// Runs until the mailbox closes. A panic outside a step is a fault in the engine itself, a
    /// lost device does not come back, and with wrong accounts a block may have two owners: then
    /// all requests fail, and so does everything asked later.
    pub(crate) fn run(mut self) {
        let outcome = catch_unwind(AssertUnwindSafe(|| while self.turn() {}));
        // What is in flight may still use memory that is given back from here on. A lost device
        // uses none.
        let _ = self.runner.synchronize();
        let panicked = outcome.is_err().then(|| "its loop panicked".to_owned());
        if let Some(why) = self.broken.take().or(panicked) {
            // It is set once.
            drop(self.shared.breakdown.set(why));
            self.refuse_all();
        }
    }

    /// One turn of the loop; false once the mailbox is closed or the engine has broken down.
    fn turn(&mut self) -> bool {
        let Some(commands) = self.shared.mailbox.take(self.wait) else { return false };
        if !commands.is_empty() {
            self.quiet_since = None;
            self.stats.checked = false;
        }
        commands.into_iter().for_each(|command| self.obey(command));
        // Before the step: whoever is to bring rows begins while it runs.
        self.deliver();
        let has_launched = self.launch();
        let has_collected = self.collect(has_launched);
        if self.shared.embeddings.is_awaited() {
            self.let_go_of_rows();
        }
        let has_encoded = self.encode();
        self.wait = self.next_wait(has_launched || has_collected || has_encoded);
        // Whoever hears of something finds it in the figures.
        self.publish();
        self.deliver();
        self.broken.is_none()
    }

    /// Lets the tower go on; whether anything happened.
    fn encode(&mut self) -> bool {
        let outcome = self.encoder.run((&self.runner, self.steps.n_seqs()), &mut self.stats);
        for Supplied { id, item_idx, rows } in self.encoder.take_supplied() {
            self.supply(id, item_idx, rows);
        }
        outcome.unwrap_or_else(|lost| {
            // Its media are told by whoever fails everything.
            self.device_is_lost(&lost);
            true
        })
    }

    pub(crate) fn device_is_lost(&mut self, lost: &Error) {
        self.broken = Some(format!("its device is lost: {lost}"));
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
            Command::WarmUp(sink) => sink(guarded(|| self.runner.warm_up())),
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

    /// Gives back the rows of all prompts that have been computed. Whoever loses its blocks after
    /// that goes back to its caller, who has its media encoded again; until somebody waits for
    /// memory its rows save that.
    fn let_go_of_rows(&mut self) {
        let holders =
            self.live.iter_mut().filter(|(_, live)| live.rows.iter().any(Option::is_some));
        for (id, live) in holders {
            if self.scheduler.let_go_of_rows(*id) {
                live.rows.fill(None);
            }
        }
    }

    fn abort(&mut self, id: RequestId) {
        self.encoder.abort(id);
        self.scheduler.abort(id);
        self.live.remove(&id);
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
        if self.encoder.is_busy() {
            return Wait::AtMost(ENCODED_WITHIN);
        }
        if self.stats.checked || !self.scheduler.is_idle() {
            return Wait::Forever;
        }
        let quiet = self.quiet_since.get_or_insert_with(Instant::now).elapsed();
        if quiet < QUIET_BEFORE_CHECK {
            return Wait::AtMost(QUIET_BEFORE_CHECK - quiet);
        }
        self.stats.checked = true;
        if let Err(found) = self.scheduler.check() {
            self.broken = Some(format!("its accounts do not add up: {found}"));
        }
        Wait::Forever
    }

    fn publish(&self) {
        let stats = EngineStats {
            condition: self.condition(),
            scheduler: self.scheduler.stats(),
            n_encode_waiting: self.encoder.len(),
            embedding_bytes_used: self.shared.embeddings.n_bytes_used(),
            embedding_bytes: self.shared.embeddings.arena().n_bytes(),
            ..self.stats
        };
        *self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner) = stats;
    }

    fn condition(&self) -> Condition {
        match self.shared.breakdown.get() {
            Some(_) => Condition::Broken,
            None if self.steps.are_failing() => Condition::Failing,
            None => Condition::Well,
        }
    }

    /// Fails everything, now and from now on, in a way that lets another worker take it over.
    fn refuse_all(&mut self) {
        let error = Error::new(ErrorKind::Unavailable, "the engine has broken down");
        self.publish();
        for live in self.live.values_mut() {
            // It may be this sink that panicked.
            let tell = AssertUnwindSafe(|| live.tell(SeqEvent::Failed(error.clone())));
            drop(catch_unwind(tell));
        }
        self.live.clear();
        self.steps.clear();
        self.encoder.fail_all(&error);
        while let Some(commands) = self.shared.mailbox.take(Wait::Forever) {
            for command in commands {
                match command {
                    Command::Encode(_, sink) => sink(Err(error.clone())),
                    Command::WarmUp(sink) => sink(Err(error.clone())),
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
