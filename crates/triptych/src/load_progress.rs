//! How far the loading of a model is: a bar on a terminal, a line now and then in a log.

use models::LoadProgress;
use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// A terminal is drawn on at most this often.
const DRAW_INTERVAL: Duration = Duration::from_millis(100);
/// A log gets a line at most this often.
const LOG_INTERVAL: Duration = Duration::from_secs(5);
/// Characters of the bar.
const BAR_LEN: usize = 40;

/// Shows progress on standard error.
pub(crate) struct Shower {
    is_terminal: bool,
    last: Cell<Instant>,
    has_drawn: Cell<bool>,
}

impl Shower {
    /// Nothing is shown yet.
    pub(crate) fn new() -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        Self { is_terminal, last: Cell::new(Instant::now()), has_drawn: Cell::new(false) }
    }

    /// Shows it, unless that happened a moment ago.
    pub(crate) fn show(&self, progress: LoadProgress) {
        let interval = if self.is_terminal { DRAW_INTERVAL } else { LOG_INTERVAL };
        if self.last.get().elapsed() < interval {
            return;
        }
        self.last.set(Instant::now());
        if self.is_terminal {
            self.has_drawn.set(true);
            // Nobody is helped by an error about a bar.
            let _ = write!(std::io::stderr(), "\r{}", bar(progress));
        } else {
            tracing::info!("loading the model: {}", amount(progress));
        }
    }
}

impl Drop for Shower {
    fn drop(&mut self) {
        if self.has_drawn.get() {
            let blank = " ".repeat(2 * BAR_LEN);
            let _ = write!(std::io::stderr(), "\r{blank}\r");
        }
    }
}

fn bar(progress: LoadProgress) -> String {
    let n_bytes = progress.n_bytes.unwrap_or(progress.n_bytes_done).max(1);
    let n_full = (BAR_LEN * progress.n_bytes_done / n_bytes).min(BAR_LEN);
    let (full, empty) = ("█".repeat(n_full), "░".repeat(BAR_LEN - n_full));
    format!("{full}{empty} {}", amount(progress))
}

fn amount(progress: LoadProgress) -> String {
    let gib = |n_bytes: usize| n_bytes as f64 / (1 << 30) as f64;
    let done = gib(progress.n_bytes_done);
    match progress.n_bytes {
        Some(all) => format!("{done:.1} of {:.1} GiB", gib(all)),
        None => format!("{done:.1} GiB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_fills() {
        let check = |n_bytes_done: usize, n_bytes, n_full, words: &str| {
            let bar = bar(LoadProgress { n_bytes_done, n_bytes });
            assert_eq!(bar.matches('█').count(), n_full, "{bar}");
            assert_eq!(bar.matches('░').count(), BAR_LEN - n_full, "{bar}");
            assert!(bar.ends_with(words), "{bar}");
        };
        check(0, Some(4 << 30), 0, "0.0 of 4.0 GiB");
        check(2 << 30, Some(4 << 30), 20, "2.0 of 4.0 GiB");
        check(4 << 30, Some(4 << 30), 40, "4.0 of 4.0 GiB");
        check(0, Some(0), 0, "0.0 of 0.0 GiB");
        check(3 << 29, None, 40, "1.5 GiB");
    }
}
