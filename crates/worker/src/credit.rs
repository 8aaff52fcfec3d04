//! Room for prompts that are still on their way: a decode worker promises blocks, and places in its
//! batch, before prefill computes what will fill them, so nothing is computed that cannot go on.
//!
//! A promise is a count, not blocks of its own: the scheduler stays the one who hands out blocks.

use engine::{Condition, Engine, SchedulerStats};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::sleep;
use types::{Error, ErrorKind, Result};

/// How often to look for free blocks; some become free whenever an answer ends.
const POLL: Duration = Duration::from_millis(1);

/// Tokens that every choice has room for beside the prompt before its request begins.
const HEADROOM_TOKENS: usize = 32;

/// The batch's share of places that are promised beyond those there are, one at least: who has such
/// a promise is computed while an answer ends, and no place stands empty meanwhile.
const AHEAD_DIVISOR: usize = 8;

/// What is promised and not yet taken.
#[derive(Default)]
pub(crate) struct Credits {
    n_blocks: AtomicUsize,
    n_choices: AtomicUsize,
    /// Held by whoever is next; the others wait behind it, first come, first served.
    turn: Mutex<()>,
}

/// Promised until this is dropped.
pub(crate) struct Credit<'a> {
    credits: &'a Credits,
    n_blocks: usize,
    n_choices: usize,
}

impl Drop for Credit<'_> {
    fn drop(&mut self) {
        self.credits.n_blocks.fetch_sub(self.n_blocks, Ordering::Relaxed);
        self.credits.n_choices.fetch_sub(self.n_choices, Ordering::Relaxed);
    }
}

impl Credits {
    /// Waits until there is room for a prompt of `n_tokens`, and for its choices to run.
    ///
    /// Errors: the prompt alone is more than there will ever be (`ContextLengthExceeded`), or the
    /// engine has broken down (`Unavailable`).
    pub(crate) async fn promise(
        &self,
        engine: &Engine,
        n_tokens: usize,
        n_choices: usize,
    ) -> Result<Credit<'_>> {
        let block_size = engine.kv().layout.block_size;
        let n_total = engine.kv().n_blocks;
        if n_tokens.div_ceil(block_size) > n_total {
            let message = "the prompt needs more KV blocks than a decode worker has";
            return Err(Error::new(ErrorKind::ContextLengthExceeded, message));
        }
        let headroom = n_choices * HEADROOM_TOKENS.div_ceil(block_size);
        let n_blocks = (n_tokens.div_ceil(block_size) + headroom).min(n_total);
        let _turn = self.turn.lock().await;
        while !self.has_room(&engine.stats().scheduler, n_blocks, n_choices) {
            if engine.condition() == Condition::Broken {
                return Err(Error::new(ErrorKind::Unavailable, "the engine has broken down"));
            }
            sleep(POLL).await;
        }
        self.n_blocks.fetch_add(n_blocks, Ordering::Relaxed);
        self.n_choices.fetch_add(n_choices, Ordering::Relaxed);
        Ok(Credit { credits: self, n_blocks, n_choices })
    }

    /// Blocks promised and not yet taken.
    pub(crate) fn n_promised(&self) -> usize {
        self.n_blocks.load(Ordering::Relaxed)
    }

    /// Whether so much may be promised. What is on its way into the engine has its promise still.
    fn has_room(&self, stats: &SchedulerStats, n_blocks: usize, n_choices: usize) -> bool {
        let n_places = stats.n_places + (stats.n_places / AHEAD_DIVISOR).max(1);
        let n_taken = stats.n_running + stats.n_waiting;
        let n_choices = n_choices.min(stats.n_places) + self.n_choices.load(Ordering::Relaxed);
        self.n_promised() + n_blocks <= stats.blocks.free + stats.blocks.cached
            && n_taken + n_choices <= n_places
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::BlockCounts;

    fn stats(n_running: usize, n_free: usize) -> SchedulerStats {
        let blocks = BlockCounts { free: n_free, ..BlockCounts::default() };
        SchedulerStats { blocks, n_places: 16, n_running, ..SchedulerStats::default() }
    }

    #[test]
    fn places_are_promised_as_blocks_are() {
        let credits = Credits::default();
        let check = |n_running, n_free, n_blocks, n_choices, expected| {
            let has_room = credits.has_room(&stats(n_running, n_free), n_blocks, n_choices);
            assert_eq!(has_room, expected, "{n_running} {n_free} {n_blocks} {n_choices}");
        };
        check(0, 10, 10, 1, true);
        check(0, 10, 11, 1, false);
        // Two ahead of sixteen.
        check(17, 10, 1, 1, true);
        check(18, 10, 1, 1, false);
        check(15, 10, 1, 4, false);
        // More choices than there are places: the engine says that it cannot, not we for ever.
        check(0, 10, 1, 100, true);
        credits.n_blocks.store(9, Ordering::Relaxed);
        credits.n_choices.store(3, Ordering::Relaxed);
        check(0, 10, 1, 1, true);
        check(0, 10, 2, 1, false);
        check(14, 10, 1, 1, true);
        check(15, 10, 1, 1, false);
    }
}
