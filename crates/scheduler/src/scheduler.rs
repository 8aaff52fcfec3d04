//! The state machine: what callers may say to it, and what it holds.
//!
//! The parts of its work are in their own files: `plan` (what runs next), `preempt` (who yields),
//! `fork` (what a finished step means), `finish_choice` (one choice ended from outside), `transfer`
//! (import and export).

use crate::blocks::BlockPool;
use crate::config::SchedulerConfig;
use crate::event::{Event, EventKind};
use crate::queue::WaitingQueue;
use crate::request::{self, NewRequest, PromptPlace, Request};
use crate::sequence::{Rank, Sequence};
use crate::stats::SchedulerStats;
use crate::transfer::Imports;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use types::content::block_key;
use types::{Error, ErrorKind, RequestId, Result};

/// Decides which sequences run in which step, and which KV blocks they use.
#[derive(Debug)]
pub struct Scheduler {
    pub(crate) cfg: SchedulerConfig,
    pub(crate) pool: BlockPool,
    pub(crate) requests: HashMap<RequestId, Request>,
    /// Queued and running sequences.
    pub(crate) seqs: BTreeMap<Rank, Sequence>,
    pub(crate) running: BTreeSet<Rank>,
    pub(crate) waiting: WaitingQueue,
    /// The waiting sequence that could finish and found no blocks or no place last time.
    pub(crate) refused: Option<Rank>,
    pub(crate) imports: Imports,
    /// Blocks held for peers.
    pub(crate) exports: HashMap<RequestId, Vec<u32>>,
    pub(crate) events: Vec<Event>,
    pub(crate) launched_step: u64,
    /// Somebody must yield as soon as no step is under way.
    pub(crate) is_short: bool,
    n_arrived: u64,
    pub(crate) n_preempted: u64,
    pub(crate) prefix_hit_tokens: u64,
    pub(crate) prefix_query_tokens: u64,
}

impl Scheduler {
    /// An empty scheduler. Errors: impossible limits.
    pub fn new(cfg: SchedulerConfig) -> Result<Self> {
        cfg.validate()?;
        Ok(Self {
            pool: BlockPool::new(cfg.n_blocks),
            cfg,
            requests: HashMap::new(),
            seqs: BTreeMap::new(),
            running: BTreeSet::new(),
            waiting: WaitingQueue::default(),
            refused: None,
            imports: Imports::default(),
            exports: HashMap::new(),
            events: Vec::new(),
            launched_step: 0,
            is_short: false,
            n_arrived: 0,
            n_preempted: 0,
            prefix_hit_tokens: 0,
            prefix_query_tokens: 0,
        })
    }

    /// Takes a request and holds the cached blocks of its prompt. Its first event is `Pinned`.
    /// Errors: it can never fit, or the queue is full.
    pub fn submit(&mut self, new: NewRequest) -> Result<()> {
        self.check_new(&new, PromptPlace::Here)?;
        if self.waiting.len() >= self.cfg.max_queue_len {
            return Err(Error::new(ErrorKind::Overloaded, "too many requests wait for their turn"));
        }
        let rank = self.next_rank(new.priority, new.first_choice);
        let mut request = Request::new(&new, PromptPlace::Here);
        request.live.push(rank);
        self.requests.insert(new.id, request);
        self.seqs.insert(rank, Sequence::new(new.id, new.prompt.tokens));
        self.waiting.insert(rank, false);
        self.pin_prefix(rank);
        self.prefix_query_tokens += self.seqs[&rank].tokens.len() as u64;
        self.prefix_hit_tokens += self.seqs[&rank].n_computed as u64;
        self.ask_rows(rank, true);
        Ok(())
    }

    /// The rows of one item are at hand. Unknown requests and items are ignored: they are gone.
    pub fn supply(&mut self, id: RequestId, item_idx: usize) {
        let request = self.requests.get_mut(&id);
        if let Some(slot) = request.and_then(|request| request.supplied.get_mut(item_idx)) {
            *slot = true;
        }
    }

    /// Forgets a request in whatever state it is; no event follows.
    ///
    /// Blocks that a launched step names, or that an arriving transfer may write, are quarantined.
    pub fn abort(&mut self, id: RequestId) {
        self.forget(id);
        self.events.retain(|event| event.id != id);
    }

    /// Ends all of a request; what it has not been told yet stays to be told.
    pub(crate) fn forget(&mut self, id: RequestId) {
        if let Some(request) = self.requests.remove(&id) {
            for rank in request.live {
                self.drop_seq(rank);
            }
        }
        self.abandon_transfers(id);
    }

    /// Fails every request that takes part in a step: the device could not run it. A later step
    /// that is under way goes on for all others.
    pub fn fail(&mut self, batch: &crate::Batch, error: &Error) {
        self.pool.finish(batch.step);
        for seq in &batch.seqs {
            self.fail_request(seq.request, error);
        }
    }

    /// Fails one request: its owner gets `Failed` as its last event.
    pub fn fail_request(&mut self, id: RequestId, error: &Error) {
        if self.requests.contains_key(&id) {
            self.forget(id);
            self.emit(id, EventKind::Failed(error.clone()));
            self.emit(id, EventKind::Ended);
        }
    }

    /// All that has happened since the last call, in order.
    pub fn drain_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// A sequence that is queued or running.
    pub fn sequence(&self, rank: Rank) -> Option<&Sequence> {
        self.seqs.get(&rank)
    }

    /// Whether no request is queued, running or arriving.
    pub fn is_idle(&self) -> bool {
        self.requests.is_empty()
    }

    /// Figures of this moment.
    pub fn stats(&self) -> SchedulerStats {
        SchedulerStats {
            blocks: self.pool.counts(),
            n_waiting: self.waiting.len(),
            n_running: self.running.len(),
            n_places: self.cfg.max_batch_size,
            n_imports_waiting: self.imports.queued.len(),
            n_importing: self.imports.arriving.len(),
            n_exported: self.exports.len(),
            prefix_hit_tokens: self.prefix_hit_tokens,
            prefix_query_tokens: self.prefix_query_tokens,
            n_preempted: self.n_preempted,
        }
    }

    pub(crate) fn check_new(&self, new: &NewRequest, prompt_place: PromptPlace) -> Result<()> {
        request::validate(new, &self.cfg, prompt_place)?;
        let known = self.requests.contains_key(&new.id)
            || self.exports.contains_key(&new.id)
            || self.imports.abandoned.contains_key(&new.id);
        if known {
            return Err(Error::internal("a request with this id is already here"));
        }
        Ok(())
    }

    pub(crate) fn next_rank(&mut self, priority: i32, choice: u32) -> Rank {
        self.n_arrived += 1;
        Rank { priority: Reverse(priority), arrival: self.n_arrived, choice }
    }

    pub(crate) fn emit(&mut self, id: RequestId, kind: EventKind) {
        self.events.push(Event { id, kind });
    }

    /// Lengthens a waiting sequence's beginning by what the prefix cache holds: whole blocks, and
    /// never its last token, whose logits must be computed.
    pub(crate) fn pin_prefix(&mut self, rank: Rank) {
        let Some(seq) = self.seqs.get(&rank).filter(|_| self.cfg.reuse_blocks) else { return };
        let n_blocks_max = (seq.tokens.len() - 1) / self.cfg.block_size;
        while let Some(block) = self.next_cached(rank, n_blocks_max) {
            self.pool.own(block);
            if let Some(seq) = self.seqs.get_mut(&rank) {
                seq.blocks.push(block);
                seq.n_shared = seq.blocks.len();
                seq.n_computed = seq.n_shared * self.cfg.block_size;
                seq.n_launched = seq.n_computed;
            }
            self.waiting.set_holder(rank, true);
        }
    }

    fn next_cached(&mut self, rank: Rank, n_blocks_max: usize) -> Option<u32> {
        let n_held = self.seqs.get(&rank)?.blocks.len();
        if n_held >= n_blocks_max || !self.extend_keys(rank, n_held + 1) {
            return None;
        }
        self.pool.prefix.get(&self.seqs[&rank].keys[n_held])
    }

    /// Computes a sequence's keys up to `n_blocks`; false when they may not be shared that far.
    pub(crate) fn extend_keys(&mut self, rank: Rank, n_blocks: usize) -> bool {
        let size = self.cfg.block_size;
        let Some(seq) = self.seqs.get_mut(&rank) else { return false };
        let Some(request) = self.requests.get(&seq.request) else { return false };
        if n_blocks * size > request.shareable_len {
            return false;
        }
        for idx in seq.keys.len()..n_blocks {
            let parent = seq.keys.last().copied().unwrap_or(request.block_root);
            let tokens = &seq.tokens[idx * size..(idx + 1) * size];
            seq.keys.push(block_key(parent, idx * size, tokens, &request.items));
        }
        true
    }

    /// Emits `Pinned` for items ahead that were not asked for yet, or `always`.
    pub(crate) fn ask_rows(&mut self, rank: Rank, always: bool) {
        let Some(seq) = self.seqs.get(&rank) else { return };
        let (id, n_computed) = (seq.request, seq.n_computed);
        let Some(request) = self.requests.get_mut(&id) else { return };
        let needed_items = request.ask_items(n_computed);
        if always || !needed_items.is_empty() {
            let cached_tokens = n_computed as u32;
            self.emit(id, EventKind::Pinned { cached_tokens, needed_items });
        }
    }

    /// Removes a sequence from everywhere but its request.
    pub(crate) fn drop_seq(&mut self, rank: Rank) {
        self.drop_blocks(rank);
        self.running.remove(&rank);
        self.waiting.remove(rank);
        self.seqs.remove(&rank);
    }

    /// Gives back all blocks of a sequence, the end of the chain first, so that it is evicted
    /// first.
    pub(crate) fn drop_blocks(&mut self, rank: Rank) {
        let Some(seq) = self.seqs.get_mut(&rank) else { return };
        for block in std::mem::take(&mut seq.blocks).into_iter().rev() {
            self.pool.disown(block, seq.last_step);
        }
        (seq.n_computed, seq.n_launched) = (0, 0);
        seq.n_shared = 0;
    }
}
