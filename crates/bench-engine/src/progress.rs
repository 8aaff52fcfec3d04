//! A line on a terminal that says how far things are; nothing where nobody watches.

use std::io::{IsTerminal, Write, stderr};
use std::time::Instant;

/// Cells of the bar.
const WIDTH: usize = 24;

/// A bar of so many steps.
pub(crate) struct Progress {
    n: usize,
    n_done: usize,
    started: Instant,
    is_shown: bool,
}

impl Progress {
    pub(crate) fn new(n: usize) -> Self {
        let is_shown = stderr().is_terminal();
        Self { n: n.max(1), n_done: 0, started: Instant::now(), is_shown }
    }

    /// Says what is done now.
    pub(crate) fn at(&self, what: &str) {
        if self.is_shown {
            let filled = WIDTH * self.n_done / self.n;
            let bar = format!("{}{}", "#".repeat(filled), "-".repeat(WIDTH - filled));
            let seconds = self.started.elapsed().as_secs();
            // Progress is a courtesy: nobody reading it is no fault.
            let _ = write!(stderr(), "\r\x1b[K[{bar}] {seconds} s  {what}");
        }
    }

    /// One step is done.
    pub(crate) fn step(&mut self) {
        self.n_done = (self.n_done + 1).min(self.n);
    }

    /// Takes the line away, so that something else can be printed.
    pub(crate) fn clear(&self) {
        if self.is_shown {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}
