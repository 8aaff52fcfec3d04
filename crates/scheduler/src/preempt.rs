//! Who yields when blocks or places run out: the last in rank, or one that waits for rows anyway.
//!
//! Only a sequence that has all rows it needs takes from others. One that will stop at a missing
//! row takes what is free, or two of them could take turns at each other's cost and never finish;
//! and one that has stopped yields even to those behind it, for its rows may be waiting for memory
//! that only their progress frees. Nor does one that lacks rows join the batch while one that has
//! them all waits for blocks (`plan`). So the first sequence that can finish always does.

use crate::event::EventKind;
use crate::plan::Plan;
use crate::request::PromptPlace;
use crate::scheduler::Scheduler;
use crate::sequence::Rank;
use types::RequestId;
use types::prompt::PlacedItem;

impl Scheduler {
    /// The sequence that should yield its blocks to `rank`: the last of those that are behind it or
    /// wait for rows, and are not in the plan.
    pub(crate) fn victim(&mut self, rank: Rank, plan: &Plan) -> Option<Rank> {
        if !self.can_finish(rank) {
            return None;
        }
        let yields = |other: &Rank| {
            *other != rank
                && !plan.contains(*other)
                && (*other > rank || self.is_stuck(*other))
                && !self.seqs[other].blocks.is_empty()
        };
        let running = self.running.iter().rev().find(|other| yields(other)).copied();
        self.if_it_may_yield(running.max(self.waiting_victim(rank)))
    }

    /// The sequence that should yield to the admission of `rank`: nothing that can itself run.
    pub(crate) fn admission_victim(&mut self, rank: Rank, plan: &Plan) -> Option<Rank> {
        if !self.can_finish(rank) {
            return None;
        }
        self.if_it_may_yield(self.stuck_running(plan).max(self.waiting_victim(rank)))
    }

    /// The running sequence that should yield its place to the admission of `rank`.
    pub(crate) fn slot_victim(&mut self, rank: Rank, plan: &Plan) -> Option<Rank> {
        let stuck = if self.can_finish(rank) { self.stuck_running(plan) } else { None };
        self.if_it_may_yield(stuck)
    }

    /// A running sequence yields only while no step is under way: that step may name its blocks,
    /// so that taking them would gain nothing yet, and sample a token for it.
    fn if_it_may_yield(&mut self, victim: Option<Rank>) -> Option<Rank> {
        let rank = victim?;
        if self.n_in_flight() > 0 && self.running.contains(&rank) {
            self.is_short = true;
            return None;
        }
        Some(rank)
    }

    /// Whether a sequence has all the rows it needs.
    pub(crate) fn can_finish(&self, rank: Rank) -> bool {
        let seq = &self.seqs[&rank];
        let request = self.requests.get(&seq.request);
        request.is_some_and(|request| request.rows_end(seq.n_launched) == usize::MAX)
    }

    /// The last running sequence that waits for rows and has no part in the plan.
    fn stuck_running(&self, plan: &Plan) -> Option<Rank> {
        let stuck = |other: &&Rank| !plan.contains(**other) && self.is_stuck(**other);
        self.running.iter().rev().find(stuck).copied()
    }

    /// A waiting sequence that only keeps cached blocks. It loses little, so it need not be behind.
    fn waiting_victim(&self, rank: Rank) -> Option<Rank> {
        self.waiting.last_holder(rank)
    }

    /// Whether a sequence waits for embeddings that are not at hand.
    fn is_stuck(&self, rank: Rank) -> bool {
        !self.can_finish(rank) && self.n_rows_ready(rank) == 0
    }

    /// Lets go of a request's rows, if its prompt has been computed: whether it has. From then on
    /// it is like one whose prompt was computed elsewhere.
    pub fn let_go_of_rows(&mut self, id: RequestId) -> bool {
        let seqs = &self.seqs;
        let Some(request) = self.requests.get_mut(&id) else { return false };
        let end = request.items.last().map_or(0, PlacedItem::end);
        let has_computed = |rank: &Rank| seqs[rank].running && seqs[rank].n_computed >= end;
        let needs_none = request.forked && request.live.iter().all(has_computed);
        if needs_none {
            request.supplied.fill(false);
            request.prompt_place = PromptPlace::Elsewhere;
        }
        needs_none
    }

    /// Takes a sequence's blocks and its place. One whose prompt can be computed here waits for its
    /// next turn, another is handed back.
    pub(crate) fn preempt(&mut self, rank: Rank) {
        let Some(seq) = self.seqs.get(&rank) else { return };
        let id = seq.request;
        if !seq.running {
            self.drop_blocks(rank);
            self.waiting.set_holder(rank, false);
            return;
        }
        self.n_preempted += 1;
        match self.requests.get(&id).map(|request| request.prompt_place) {
            Some(PromptPlace::Elsewhere) => {
                self.emit(id, EventKind::Preempted { choice: rank.choice });
                self.end_seq(rank);
            }
            Some(PromptPlace::Here) | None => self.requeue(rank),
        }
    }

    fn requeue(&mut self, rank: Rank) {
        self.drop_blocks(rank);
        self.running.remove(&rank);
        self.waiting.insert(rank, false);
        if let Some(seq) = self.seqs.get_mut(&rank) {
            seq.running = false;
        }
    }

    /// Removes a sequence that is over; with the last one, its request.
    pub(crate) fn end_seq(&mut self, rank: Rank) {
        let Some(id) = self.seqs.get(&rank).map(|seq| seq.request) else { return };
        self.drop_seq(rank);
        let Some(request) = self.requests.get_mut(&id) else { return };
        request.live.retain(|live| *live != rank);
        if request.live.is_empty() {
            self.requests.remove(&id);
            self.emit(id, EventKind::Ended);
        }
    }
}
