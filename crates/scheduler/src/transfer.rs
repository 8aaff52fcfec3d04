//! KV that comes from and goes to other engines.
//!
//! An import reserves its blocks all at once or waits; its bytes arrive from outside. An export's
//! blocks stay until they are released. Neither is ever preempted.

use crate::event::EventKind;
use crate::request::{NewImport, PromptPlace, Request};
use crate::scheduler::Scheduler;
use crate::sequence::{Rank, Sequence};
use std::collections::{BTreeMap, HashMap};
use types::{Error, ErrorKind, RequestId, Result, TokenId};

/// Imports by state.
#[derive(Debug, Default)]
pub(crate) struct Imports {
    /// They wait for blocks and places.
    pub(crate) queued: BTreeMap<Rank, NewImport>,
    /// Their bytes are on the way.
    pub(crate) arriving: HashMap<RequestId, Arrival>,
    /// Blocks of aborted ones that the transfer may still write.
    pub(crate) abandoned: HashMap<RequestId, Vec<u32>>,
}

impl Imports {
    /// Places in the batch promised to those on the way.
    pub(crate) fn n_slots(&self) -> usize {
        self.arriving.values().map(|arrival| arrival.choices.len()).sum()
    }
}

/// An import whose bytes are on the way.
#[derive(Debug)]
pub(crate) struct Arrival {
    rank: Rank,
    /// The prompt, with blocks for all of it.
    pub(crate) trunk: Sequence,
    /// Blocks from this index on are being written.
    pub(crate) n_cached: usize,
    /// Choices that go on, with their first token.
    pub(crate) choices: Vec<(u32, TokenId)>,
}

impl Scheduler {
    /// Takes a request whose prompt was computed elsewhere. `ImportReady` follows when its blocks
    /// are reserved. Errors: it can never fit, no choice goes on, or the queue is full.
    pub fn import(&mut self, new: NewImport) -> Result<()> {
        self.check_new(&new.request, PromptPlace::Elsewhere)?;
        if new.first_tokens.len() != new.request.n_choices as usize {
            return Err(Error::internal("an import must say of every choice how it began"));
        }
        if new.first_tokens.iter().all(Option::is_none) {
            return Err(Error::internal("no choice of the import goes on"));
        }
        if self.imports.queued.len() >= self.cfg.max_queue_len {
            return Err(Error::new(ErrorKind::Overloaded, "too many requests wait for KV memory"));
        }
        let rank = self.next_rank(new.request.priority, new.request.first_choice);
        self.requests.insert(new.request.id, Request::new(&new.request, PromptPlace::Elsewhere));
        self.imports.queued.insert(rank, new);
        self.admit_imports();
        Ok(())
    }

    /// The bytes of an import's missing blocks are here, or, after it was aborted, the transfer no
    /// longer touches them. Must be called once for every `ImportReady` (or [`Self::release`]).
    pub fn imported(&mut self, id: RequestId) {
        self.reclaim_abandoned(id);
        let Some(Arrival { rank, trunk, choices, .. }) = self.imports.arriving.remove(&id) else {
            return;
        };
        let prompt = trunk.tokens.clone();
        self.seqs.insert(rank, trunk);
        self.running.insert(rank);
        self.share_full_blocks(rank);
        let Some(trunk) = self.seqs.get(&rank).cloned() else { return };
        let with_first = |(choice, first)| (choice, [&prompt[..], &[first]].concat());
        self.branch(rank, &trunk, choices.into_iter().map(with_first).collect());
    }

    /// A peer no longer needs the exported blocks of a request, or a transfer no longer touches
    /// those of an aborted import.
    pub fn release(&mut self, id: RequestId) {
        for block in self.exports.remove(&id).unwrap_or_default().into_iter().rev() {
            self.pool.unlease(block);
        }
        self.reclaim_abandoned(id);
    }

    /// Reserves blocks and places for queued imports, in order of rank, until one does not fit.
    pub(crate) fn admit_imports(&mut self) {
        while let Some((rank, new)) = self.imports.queued.pop_first() {
            if !self.admit_import(rank, &new) {
                self.imports.queued.insert(rank, new);
                break;
            }
        }
    }

    fn admit_import(&mut self, rank: Rank, new: &NewImport) -> bool {
        let id = new.request.id;
        let n_going_on = new.first_tokens.iter().flatten().count();
        if self.n_free_slots() < n_going_on {
            return false;
        }
        let trunk = self.find_cached(rank, Sequence::new(id, new.request.prompt.tokens.clone()));
        if !self.has_room(&trunk, n_going_on) {
            self.give_back(&trunk);
            return false;
        }
        let (trunk, n_cached) = self.allocate_rest(trunk);
        let missing = trunk.blocks.iter().copied().enumerate().skip(n_cached).collect();
        self.prefix_query_tokens += trunk.tokens.len() as u64;
        self.prefix_hit_tokens += (n_cached * self.cfg.block_size) as u64;
        let first_tokens = new.first_tokens.iter().enumerate();
        let choices = first_tokens.filter_map(|(idx, first)| {
            first.map(|first| (new.request.first_choice + idx as u32, first))
        });
        let arrival = Arrival { rank, trunk, n_cached, choices: choices.collect() };
        self.imports.arriving.insert(id, arrival);
        self.emit(id, EventKind::ImportReady { missing });
        true
    }

    /// Owns the cached blocks at the beginning of an import's prompt; all of it may be cached, for
    /// its logits are not needed.
    fn find_cached(&mut self, rank: Rank, trunk: Sequence) -> Sequence {
        if !self.cfg.reuse_blocks {
            return trunk;
        }
        let n_full = trunk.tokens.len() / self.cfg.block_size;
        self.seqs.insert(rank, trunk);
        let mut blocks = Vec::new();
        while blocks.len() < n_full && self.extend_keys(rank, blocks.len() + 1) {
            let Some(block) = self.pool.prefix.get(&self.seqs[&rank].keys[blocks.len()]) else {
                break;
            };
            self.pool.own(block);
            blocks.push(block);
        }
        let mut trunk = self.seqs.remove(&rank).expect("inserted above");
        trunk.n_shared = blocks.len();
        trunk.blocks = blocks;
        trunk
    }

    /// Whether the rest of the prompt fits, with a block to write into for each choice that goes on
    /// and for each running sequence.
    fn has_room(&self, trunk: &Sequence, n_going_on: usize) -> bool {
        let n_full = trunk.tokens.len() / self.cfg.block_size;
        let n_blocks = (n_full + n_going_on).min(self.cfg.n_blocks) - trunk.blocks.len();
        self.pool.n_available() >= n_blocks + self.running.len()
    }

    fn give_back(&mut self, trunk: &Sequence) {
        for &block in trunk.blocks.iter().rev() {
            self.pool.disown(block, 0);
        }
    }

    fn allocate_rest(&mut self, mut trunk: Sequence) -> (Sequence, usize) {
        let n_cached = trunk.blocks.len();
        let n_blocks = self.cfg.blocks_for(trunk.tokens.len());
        trunk.blocks.extend((n_cached..n_blocks).map_while(|_| self.pool.alloc()));
        trunk.n_computed = trunk.tokens.len();
        trunk.n_launched = trunk.n_computed;
        trunk.running = true;
        (trunk, n_cached)
    }

    /// Ends a sequence here and holds its blocks for a peer.
    pub(crate) fn export(&mut self, rank: Rank) {
        let Some(seq) = self.seqs.get_mut(&rank) else { return };
        let (id, n_tokens) = (seq.request, seq.n_computed);
        let blocks = std::mem::take(&mut seq.blocks);
        blocks.iter().for_each(|block| self.pool.lease(*block));
        self.exports.insert(id, blocks.clone());
        self.emit(id, EventKind::Exported { blocks, n_tokens });
        self.end_seq(rank);
    }

    /// Ends whatever transfer a request has here.
    pub(crate) fn abandon_transfers(&mut self, id: RequestId) {
        self.imports.queued.retain(|_, new| new.request.id != id);
        for block in self.exports.remove(&id).unwrap_or_default().into_iter().rev() {
            self.pool.unlease(block);
        }
        let Some(Arrival { trunk, n_cached, .. }) = self.imports.arriving.remove(&id) else {
            return;
        };
        let (cached, arriving) = trunk.blocks.split_at(n_cached);
        cached.iter().rev().for_each(|block| self.pool.disown(*block, 0));
        if self.take_untold_ready(id) {
            arriving.iter().for_each(|block| self.pool.disown(*block, 0));
            return;
        }
        arriving.iter().for_each(|block| self.pool.quarantine(*block));
        self.imports.abandoned.insert(id, arriving.to_vec());
    }

    /// Takes back what nobody has been told yet: where an import's bytes should go.
    fn take_untold_ready(&mut self, id: RequestId) -> bool {
        let n_events = self.events.len();
        let is_ready = |kind: &EventKind| matches!(kind, EventKind::ImportReady { .. });
        self.events.retain(|event| event.id != id || !is_ready(&event.kind));
        self.events.len() < n_events
    }

    fn reclaim_abandoned(&mut self, id: RequestId) {
        for block in self.imports.abandoned.remove(&id).unwrap_or_default() {
            self.pool.unquarantine(block);
        }
    }
}
