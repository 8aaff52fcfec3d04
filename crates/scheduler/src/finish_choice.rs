//! The end of one choice by word from outside, wherever the choice is: a stop string is found in
//! text, which nobody here can read.

use crate::event::EventKind;
use crate::scheduler::Scheduler;
use types::RequestId;
use types::output::FinishReason;

impl Scheduler {
    /// Ends one choice now, as a stop token would: `Finished` with [`FinishReason::Stop`] follows,
    /// and `Ended` when it was the last. The others go on.
    ///
    /// What a launched step samples for it is dropped, and its blocks wait for that step. Nothing
    /// happens when the choice has ended already, here or elsewhere, or was never asked for.
    pub fn finish_choice(&mut self, id: RequestId, choice: u32) {
        if self.imports.queued.values().any(|new| new.request.id == id) {
            self.finish_queued(id, choice);
        } else if self.imports.arriving.contains_key(&id) {
            self.finish_arriving(id, choice);
        } else if self.requests.get(&id).is_some_and(|request| request.forked) {
            self.finish_running(id, choice);
        } else {
            self.finish_unborn(id, choice);
        }
    }

    /// A choice of an import that waits for blocks.
    fn finish_queued(&mut self, id: RequestId, choice: u32) {
        let mut queued = self.imports.queued.values_mut();
        let Some(new) = queued.find(|new| new.request.id == id) else { return };
        let idx = choice.checked_sub(new.request.first_choice);
        let first = idx.and_then(|idx| new.first_tokens.get_mut(idx as usize));
        if first.and_then(Option::take).is_none() {
            return;
        }
        let is_last = new.first_tokens.iter().all(Option::is_none);
        self.tell_stopped(id, choice);
        self.end_import_if(is_last, id);
    }

    /// A choice of an import whose bytes are on the way.
    fn finish_arriving(&mut self, id: RequestId, choice: u32) {
        let Some(arrival) = self.imports.arriving.get_mut(&id) else { return };
        let n_before = arrival.choices.len();
        arrival.choices.retain(|(arriving, _)| *arriving != choice);
        let n_left = arrival.choices.len();
        if n_left < n_before {
            self.tell_stopped(id, choice);
            self.end_import_if(n_left == 0, id);
        }
    }

    /// A choice with a sequence of its own, running or waiting for its next turn.
    fn finish_running(&mut self, id: RequestId, choice: u32) {
        let live = self
            .requests
            .get(&id)
            .and_then(|request| request.live.iter().find(|rank| rank.choice == choice).copied());
        if let Some(rank) = live {
            self.tell_stopped(id, choice);
            self.end_seq(rank);
        }
    }

    /// A choice that has no token yet, or that is computed again from its beginning.
    fn finish_unborn(&mut self, id: RequestId, choice: u32) {
        let Some(request) = self.requests.get_mut(&id) else { return };
        let Some(trunk) = request.live.first().copied() else { return };
        let is_asked_for = (trunk.choice..trunk.choice + request.n_choices).contains(&choice);
        if !is_asked_for || request.stopped.contains(&choice) {
            return;
        }
        request.stopped.push(choice);
        let is_last = request.stopped.len() == request.n_choices as usize;
        self.tell_stopped(id, choice);
        if is_last {
            self.end_seq(trunk);
        }
    }

    fn tell_stopped(&mut self, id: RequestId, choice: u32) {
        self.emit(id, EventKind::Finished { choice, reason: FinishReason::Stop });
    }

    /// An import without choices has nothing to wait for.
    fn end_import_if(&mut self, is_over: bool, id: RequestId) {
        if is_over {
            self.forget(id);
            self.emit(id, EventKind::Ended);
        }
    }
}
