//! Room for prompts that are still on their way: a decode worker promises blocks before prefill
//! computes what will fill them, so nothing is computed that cannot go on.
//!
//! A promise is a count, not blocks of its own: the scheduler stays the one who hands out blocks.

use engine::Engine;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::sleep;
use types::{Error, ErrorKind, Result};

/// How often to look for free blocks; some become free whenever an answer ends.
const POLL: Duration = Duration::from_millis(1);

/// Tokens that every choice has room for beside the prompt before its request begins.
const HEADROOM_TOKENS: usize = 32;

/// The blocks that are promised and not yet taken.
#[derive(Default)]
pub(crate) struct Credits {
    n_promised: AtomicUsize,
    /// Held by whoever is next; the others wait behind it, first come, first served.
    turn: Mutex<()>,
}

/// Blocks promised until this is dropped.
pub(crate) struct Credit<'a> {
    credits: &'a Credits,
    n_blocks: usize,
}

impl Drop for Credit<'_> {
    fn drop(&mut self) {
        self.credits.n_promised.fetch_sub(self.n_blocks, Ordering::Relaxed);
    }
}

impl Credits {
    /// Waits until there is room for a prompt of `n_tokens` and the beginnings of its choices.
    ///
    /// Errors: the prompt alone is more than there will ever be (`ContextLengthExceeded`).
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
        while !self.has_room(engine, n_blocks) {
            sleep(POLL).await;
        }
        self.n_promised.fetch_add(n_blocks, Ordering::Relaxed);
        Ok(Credit { credits: self, n_blocks })
    }

    /// Blocks promised and not yet taken.
    pub(crate) fn n_promised(&self) -> usize {
        self.n_promised.load(Ordering::Relaxed)
    }

    fn has_room(&self, engine: &Engine, n_blocks: usize) -> bool {
        let blocks = engine.stats().scheduler.blocks;
        self.n_promised() + n_blocks <= blocks.free + blocks.cached
    }
}
