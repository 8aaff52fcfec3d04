//! Reads that have ended, until those who wait for them are told.
//!
//! Waking somebody takes this thread about as long as it copies a hundred kilobytes. So while it
//! fetches more, answers wait a moment for the next ones, and one waking serves them all.

use crate::limits::{ANSWERS_WAIT_MAX, N_FETCHING_MIN};
use crate::reader::Finished;
use std::time::Instant;

/// See the file's description.
#[derive(Default)]
pub(crate) struct Answers {
    finished: Vec<Finished>,
    /// When the first of them was found waiting.
    since: Option<Instant>,
}

impl Answers {
    pub(crate) fn extend(&mut self, finished: Option<Finished>) {
        self.finished.extend(finished);
    }

    /// Tells everybody, unless enough is being fetched meanwhile and nobody has waited for long.
    pub(crate) fn tell(&mut self, now: Instant, n_fetching: usize) {
        if self.finished.is_empty() {
            return;
        }
        let since = *self.since.get_or_insert(now);
        if n_fetching < N_FETCHING_MIN || now.duration_since(since) >= ANSWERS_WAIT_MAX {
            self.tell_all();
        }
    }

    /// Tells everybody now.
    pub(crate) fn tell_all(&mut self) {
        self.since = None;
        self.finished.drain(..).for_each(Finished::tell);
    }
}
