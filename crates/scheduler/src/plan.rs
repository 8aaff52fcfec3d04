//! What runs next: single rows first, then chunks of prompts, then newcomers.

use crate::batch::{Batch, BlockCopy, SeqStep};
use crate::request::Request;
use crate::scheduler::Scheduler;
use crate::sequence::{Rank, Sequence};
use std::collections::BTreeMap;

/// Most steps under way: while one runs, the next is planned.
const IN_FLIGHT_MAX: u64 = 2;

/// A step in the making.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Rows still free.
    n_rows_left: usize,
    /// Sequences in the order they were planned, with their rows.
    order: Vec<(Rank, usize)>,
    planned: BTreeMap<Rank, usize>,
    copies: Vec<BlockCopy>,
    /// A running sequence that could finish got no blocks: newcomers would only make it worse.
    starved: bool,
}

impl Plan {
    fn new(n_rows_left: usize) -> Self {
        let (order, copies) = (Vec::new(), Vec::new());
        Self { n_rows_left, order, planned: BTreeMap::new(), copies, starved: false }
    }

    pub(crate) fn contains(&self, rank: Rank) -> bool {
        self.planned.contains_key(&rank)
    }

    fn add(&mut self, rank: Rank, n_rows: usize) {
        self.n_rows_left -= n_rows;
        self.order.push((rank, n_rows));
        self.planned.insert(rank, n_rows);
    }
}

impl Scheduler {
    /// The next step, or nothing when no sequence can go on now.
    ///
    /// The caller runs it and calls [`Self::finish`] or [`Self::fail`]. It may ask again once
    /// before it does: the next step then assumes that every sequence in the one under way goes
    /// on, with tokens that nobody knows yet. Steps run and finish in order.
    pub fn next_batch(&mut self) -> Option<Batch> {
        if !self.may_launch() {
            return None;
        }
        self.is_short = false;
        self.admit_imports();
        let mut plan = Plan::new(self.cfg.max_num_tokens);
        for single_rows in [true, false] {
            self.plan_running(&mut plan, single_rows);
        }
        if !plan.starved {
            self.plan_waiting(&mut plan);
        }
        self.launch(plan)
    }

    /// Whether a step may be planned beside those under way. Not if somebody must lose its blocks,
    /// which a step under way may name, or needs tokens that are not known.
    fn may_launch(&self) -> bool {
        let needs_tokens = |rank: &Rank| {
            let seq = &self.seqs[rank];
            seq.n_unknown > 0 && self.requests.get(&seq.request).is_some_and(|r| r.needs_tokens)
        };
        match self.n_in_flight() {
            0 => true,
            n if n >= IN_FLIGHT_MAX => false,
            _ => !self.is_short && !self.running.iter().any(needs_tokens),
        }
    }

    /// Steps that were launched and have not finished.
    pub(crate) fn n_in_flight(&self) -> u64 {
        self.launched_step - self.pool.finished_step()
    }

    /// Plans the running sequences that have one row left to compute, or those that have more.
    fn plan_running(&mut self, plan: &mut Plan, single_rows: bool) {
        let is_next = |rank: &&Rank| (self.seqs[*rank].n_left() == 1) == single_rows;
        let ranks: Vec<Rank> = self.running.iter().filter(is_next).copied().collect();
        for rank in ranks {
            let n_rows = self.n_rows_ready(rank).min(plan.n_rows_left);
            if n_rows == 0 || !self.running.contains(&rank) {
                continue;
            }
            if self.reserve(rank, n_rows, plan) {
                plan.add(rank, n_rows);
            } else {
                plan.starved |= self.can_finish(rank);
            }
        }
    }

    /// Takes waiting sequences into the batch, in order of rank. One that lacks rows lets others
    /// pass; one that has them all and waits for blocks or places does not. Until that one has
    /// them, those that lack rows stay out: it would take their blocks, they would take them back
    /// before its next turn, and so for ever.
    fn plan_waiting(&mut self, plan: &mut Plan) {
        let still = |rank: &Rank| self.waiting.contains(*rank) && self.can_finish(*rank);
        self.refused = self.refused.filter(still);
        let mut last = None;
        while plan.n_rows_left > 0
            && let Some(rank) = self.waiting.after(last)
        {
            last = Some(rank);
            self.pin_prefix(rank);
            self.ask_rows(rank, false);
            let n_rows = self.n_rows_ready(rank).min(plan.n_rows_left);
            if n_rows == 0 || (self.refused.is_some() && !self.can_finish(rank)) {
                continue;
            }
            if self.admit(rank, plan) && self.reserve(rank, n_rows, plan) {
                plan.add(rank, n_rows);
            } else if self.can_finish(rank) {
                self.refused = Some(rank);
                break;
            }
        }
    }

    /// Rows of a sequence that may be computed now. A short piece before missing rows waits for
    /// them: a step of a few rows takes nearly as long as one of many, and the rows wait behind it.
    pub(crate) fn n_rows_ready(&self, rank: Rank) -> usize {
        let Some(seq) = self.seqs.get(&rank) else { return 0 };
        let rows_end = self.requests.get(&seq.request).map_or(0, |r| r.rows_end(seq.n_launched));
        let n_ready = rows_end.min(seq.tokens.len()).saturating_sub(seq.n_launched);
        if rows_end != usize::MAX && n_ready < self.cfg.min_piece_tokens { 0 } else { n_ready }
    }

    /// Gives a waiting sequence a place in the batch, if there is one and blocks for all its
    /// tokens, and one more for each running sequence.
    fn admit(&mut self, rank: Rank, plan: &Plan) -> bool {
        let seq = &self.seqs[&rank];
        let n_slots = self.requests.get(&seq.request).map_or(1, Request::slots);
        let n_blocks = self.cfg.blocks_for(seq.tokens.len()) - seq.blocks.len();
        while self.n_free_slots() < n_slots {
            let Some(victim) = self.slot_victim(rank, plan) else { return false };
            self.preempt(victim);
        }
        while self.pool.n_available() < n_blocks + self.running.len() {
            let Some(victim) = self.admission_victim(rank, plan) else { return false };
            self.preempt(victim);
        }
        self.waiting.remove(rank);
        self.running.insert(rank);
        if let Some(seq) = self.seqs.get_mut(&rank) {
            seq.running = true;
        }
        true
    }

    /// Places in the batch that nobody has or is promised.
    pub(crate) fn n_free_slots(&self) -> usize {
        let slots =
            |rank: &Rank| self.requests.get(&self.seqs[rank].request).map_or(1, Request::slots);
        let n_taken: usize = self.running.iter().map(slots).sum();
        self.cfg.max_batch_size.saturating_sub(n_taken + self.imports.n_slots())
    }

    /// Makes room for the next `n_rows` rows of a sequence, taking blocks from others if it must.
    fn reserve(&mut self, rank: Rank, n_rows: usize, plan: &mut Plan) -> bool {
        while self.pool.n_available() < self.n_blocks_needed(rank, n_rows) {
            let Some(victim) = self.victim(rank, plan) else { return false };
            self.preempt(victim);
        }
        self.unshare_tail(rank, plan);
        let Some(seq) = self.seqs.get_mut(&rank) else { return false };
        let n_blocks = self.cfg.blocks_for(seq.n_launched + n_rows);
        while seq.blocks.len() < n_blocks {
            let Some(block) = self.pool.alloc() else { return false };
            seq.blocks.push(block);
        }
        true
    }

    fn n_blocks_needed(&self, rank: Rank, n_rows: usize) -> usize {
        let seq = &self.seqs[&rank];
        let n_new = self.cfg.blocks_for(seq.n_launched + n_rows).saturating_sub(seq.blocks.len());
        n_new + usize::from(self.shared_tail(seq).is_some())
    }

    /// Index in its table of the partly filled block that others read too.
    fn shared_tail(&self, seq: &Sequence) -> Option<usize> {
        let idx = seq.n_launched / self.cfg.block_size;
        let block = *seq.blocks.get(idx)?;
        (!self.pool.is_writable(block)).then_some(idx)
    }

    /// Gives a sequence its own copy of the block it will write into, where others share it.
    fn unshare_tail(&mut self, rank: Rank, plan: &mut Plan) {
        let Some(idx) = self.shared_tail(&self.seqs[&rank]) else { return };
        let (Some(seq), Some(to)) = (self.seqs.get_mut(&rank), self.pool.alloc()) else { return };
        let from = std::mem::replace(&mut seq.blocks[idx], to);
        self.pool.disown(from, self.launched_step + 1);
        plan.copies.push(BlockCopy { from, to });
    }

    fn launch(&mut self, plan: Plan) -> Option<Batch> {
        if plan.order.is_empty() {
            return None;
        }
        self.launched_step += 1;
        let mut seqs: Vec<SeqStep> = Vec::with_capacity(plan.order.len());
        let mut n_samples = 0;
        for (rank, n_rows) in plan.order {
            let step = self.launch_seq((rank, n_rows), n_samples);
            n_samples += step.as_ref().map_or(0, |step| step.n_samples);
            seqs.extend(step);
        }
        Some(Batch { step: self.launched_step, copies: plan.copies, seqs })
    }

    /// The rows of one sequence; its samples come behind `n_samples` others.
    fn launch_seq(&mut self, (rank, n_rows): (Rank, usize), n_samples: u32) -> Option<SeqStep> {
        let seq = self.seqs.get_mut(&rank)?;
        let request = self.requests.get(&seq.request)?;
        seq.last_step = self.launched_step;
        let start_pos = seq.n_launched;
        let end = start_pos + n_rows;
        let written = start_pos / self.cfg.block_size..self.cfg.blocks_for(end);
        debug_assert!(seq.blocks[written].iter().all(|block| self.pool.is_writable(*block)));
        let n_choices = if request.forked { 1 } else { request.n_choices };
        let is_last = end == seq.tokens.len();
        let step = SeqStep {
            rank,
            request: seq.request,
            first_choice: rank.choice,
            n_samples: if is_last { n_choices } else { 0 },
            start_pos,
            tokens: seq.tokens[start_pos..end].to_vec(),
            carried: (seq.n_unknown > 0).then_some(seq.last_sample),
            block_table: seq.blocks.clone(),
        };
        seq.n_launched = end;
        if is_last && request.goes_on(end + 1, self.cfg.seq_len_max()) {
            seq.expect(n_samples);
        }
        Some(step)
    }
}
