//! What happened in the simulated worlds: a simulation in which nothing happens proves nothing.

/// Counts over one or many worlds.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tally {
    pub(crate) n_steps: u64,
    pub(crate) n_rows: u64,
    pub(crate) n_tokens: u64,
    pub(crate) n_finished: u64,
    pub(crate) n_block_copies: u64,
    pub(crate) n_cached_tokens: u64,
    pub(crate) n_preempted: u64,
    pub(crate) n_handed_back: u64,
    /// Requests that gave back rows when their prompt had been computed.
    pub(crate) n_let_go: u64,
    /// Choices of such that lost their blocks later.
    pub(crate) n_handed_back_without_rows: u64,
    pub(crate) n_rows_asked_late: u64,
    pub(crate) n_exported: u64,
    pub(crate) n_imported: u64,
    pub(crate) n_aborted: u64,
    pub(crate) n_aborted_in_flight: u64,
    pub(crate) n_aborted_in_transfer: u64,
    pub(crate) n_stopped: u64,
    pub(crate) n_stopped_in_flight: u64,
    pub(crate) n_failed_steps: u64,
    pub(crate) n_refused: u64,
    pub(crate) n_memory_full: u64,
    /// Steps that were planned beside another one.
    pub(crate) n_overlapping: u64,
    /// Rows whose token came from the step before.
    pub(crate) n_carried: u64,
    /// Rows that were computed for what had ended already.
    pub(crate) n_surplus: u64,
    /// Not a sum: the longest run of steps without a token in any world.
    pub(crate) n_dry_steps_max: u64,
}

impl Tally {
    fn counts(&mut self) -> [&mut u64; 24] {
        [
            &mut self.n_steps,
            &mut self.n_rows,
            &mut self.n_tokens,
            &mut self.n_finished,
            &mut self.n_block_copies,
            &mut self.n_cached_tokens,
            &mut self.n_preempted,
            &mut self.n_handed_back,
            &mut self.n_let_go,
            &mut self.n_handed_back_without_rows,
            &mut self.n_rows_asked_late,
            &mut self.n_exported,
            &mut self.n_imported,
            &mut self.n_aborted,
            &mut self.n_aborted_in_flight,
            &mut self.n_aborted_in_transfer,
            &mut self.n_stopped,
            &mut self.n_stopped_in_flight,
            &mut self.n_failed_steps,
            &mut self.n_refused,
            &mut self.n_memory_full,
            &mut self.n_overlapping,
            &mut self.n_carried,
            &mut self.n_surplus,
        ]
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (sum, one) in self.counts().into_iter().zip(other.clone().counts()) {
            *sum += *one;
        }
        self.n_dry_steps_max = self.n_dry_steps_max.max(other.n_dry_steps_max);
    }

    /// Everything counted here must have happened, at least once a seed on average; the last three
    /// only where steps overlap.
    pub(crate) fn check(&self, n_seeds: u64, is_overlapping: bool) {
        let mut tally = self.clone();
        let mut counts: Vec<&mut u64> = tally.counts().into_iter().collect();
        if !is_overlapping {
            let overlapping = counts.split_off(counts.len() - 3);
            assert!(overlapping.iter().all(|count| **count == 0), "{self:#?}");
        }
        for count in counts {
            assert!(
                *count >= n_seeds,
                "something hardly ever happened in {n_seeds} seeds: {self:#?}"
            );
        }
    }
}
