//! What a finished step means: more of the prompt is computed, choices get tokens, fork and end.

use crate::batch::{Batch, SeqStep};
use crate::event::EventKind;
use crate::request::Until;
use crate::scheduler::Scheduler;
use crate::sequence::{Rank, Sequence};
use types::output::{FinishReason, OutputToken};

impl Scheduler {
    /// The step is over; `samples` are its tokens, in the order of `batch.seqs` and, within one, of
    /// the choices. Sequences that have ended in between are skipped: what was computed for them is
    /// surplus.
    pub fn finish(&mut self, batch: &Batch, samples: Vec<OutputToken>) {
        debug_assert_eq!(batch.n_samples(), samples.len());
        self.pool.finish(batch.step);
        let mut samples = samples.into_iter();
        for step in &batch.seqs {
            let tokens: Vec<OutputToken> = samples.by_ref().take(step.n_samples as usize).collect();
            if self.seqs.contains_key(&step.rank) {
                self.finish_seq(step, tokens);
            }
        }
    }

    fn finish_seq(&mut self, step: &SeqStep, samples: Vec<OutputToken>) {
        let rank = step.rank;
        if let Some(seq) = self.seqs.get_mut(&rank) {
            seq.n_computed += step.tokens.len();
        }
        self.share_full_blocks(rank);
        let Some(request) = self.requests.get_mut(&step.request) else { return };
        let is_first = !request.forked && !samples.is_empty();
        request.forked |= is_first;
        if is_first && (request.n_choices > 1 || request.until == Until::FirstToken) {
            self.fork(rank, samples);
        } else if let Some(sample) = samples.into_iter().next() {
            self.append(rank, sample);
        }
    }

    /// Puts the blocks that have become full into the prefix cache; a block whose content is there
    /// already is exchanged for that one.
    pub(crate) fn share_full_blocks(&mut self, rank: Rank) {
        let Some(seq) = self.seqs.get(&rank).filter(|_| self.cfg.reuse_blocks) else { return };
        let Some(request) = self.requests.get(&seq.request) else { return };
        let n_full = seq.n_computed.min(request.shareable_len) / self.cfg.block_size;
        if n_full <= seq.n_shared || !self.extend_keys(rank, n_full) {
            return;
        }
        let Some(seq) = self.seqs.get_mut(&rank) else { return };
        for idx in seq.n_shared..n_full {
            let own = seq.blocks[idx];
            if let Some(holder) = self.pool.share(own, seq.keys[idx]) {
                self.pool.own(holder);
                seq.blocks[idx] = holder;
                self.pool.disown(own, seq.last_step);
            }
        }
        seq.n_shared = n_full;
    }

    /// The prompt is computed, and does not simply go on: every choice gets its first token, and
    /// those that go on get a sequence, or the prompt is exported for them.
    fn fork(&mut self, rank: Rank, samples: Vec<OutputToken>) {
        let Some(trunk) = self.seqs.get(&rank).cloned() else { return };
        let stopped = self.requests.get(&trunk.request).map(|request| request.stopped.clone());
        let stopped = stopped.unwrap_or_default();
        let mut going_on = Vec::new();
        let choices = (rank.choice..).zip(samples);
        for (choice, sample) in choices.filter(|(choice, _)| !stopped.contains(choice)) {
            let mut tokens = trunk.tokens.clone();
            tokens.push(sample.token);
            self.emit(trunk.request, EventKind::Tokens { choice, tokens: vec![sample] });
            match self.finish_reason(&trunk, &tokens) {
                Some(reason) => {
                    self.emit(trunk.request, EventKind::Finished { choice, reason });
                }
                None => going_on.push((choice, tokens)),
            }
        }
        match self.requests.get(&trunk.request).map(|request| request.until) {
            Some(Until::FirstToken) if !going_on.is_empty() => self.export(rank),
            Some(Until::FirstToken) | None => self.end_seq(rank),
            Some(Until::End) => self.branch(rank, &trunk, going_on),
        }
    }

    /// Replaces a sequence by one for each choice; all share its blocks.
    pub(crate) fn branch(
        &mut self,
        rank: Rank,
        trunk: &Sequence,
        choices: Vec<(u32, Vec<types::TokenId>)>,
    ) {
        let mut live = Vec::new();
        for (choice, tokens) in choices {
            let branch = Rank { choice, ..rank };
            trunk.blocks.iter().for_each(|block| self.pool.own(*block));
            // The trunk's own sequence, if it has this rank, gives its blocks back here.
            if branch == rank {
                self.drop_blocks(rank);
            }
            self.seqs.insert(branch, Sequence { tokens, ..trunk.clone() });
            self.running.insert(branch);
            live.push(branch);
        }
        if !live.contains(&rank) {
            self.drop_seq(rank);
        }
        let ended = live.is_empty();
        if let Some(request) = self.requests.get_mut(&trunk.request) {
            request.live = live;
        }
        if ended {
            self.requests.remove(&trunk.request);
            self.emit(trunk.request, EventKind::Ended);
        }
    }

    fn append(&mut self, rank: Rank, sample: OutputToken) {
        let Some(seq) = self.seqs.get_mut(&rank) else { return };
        seq.learn(sample.token);
        let (id, choice) = (seq.request, rank.choice);
        let reason = self.finish_reason(&self.seqs[&rank], self.seqs[&rank].known());
        self.emit(id, EventKind::Tokens { choice, tokens: vec![sample] });
        if let Some(reason) = reason {
            self.emit(id, EventKind::Finished { choice, reason });
            self.end_seq(rank);
        }
    }

    fn finish_reason(&self, seq: &Sequence, tokens: &[types::TokenId]) -> Option<FinishReason> {
        self.requests.get(&seq.request)?.finish_reason(tokens, self.cfg.seq_len_max())
    }
}
