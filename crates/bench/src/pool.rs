//! Many independent requests, so many at a time, with a line of progress on standard error.

use std::io::{IsTerminal, Write, stderr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Instant;

/// Without a terminal, progress is printed this many times.
const N_REPORTS: usize = 10;

/// Runs `work(0..n)` on `concurrency` threads and hands each result to `take` as it comes.
pub(crate) fn run<T: Send>(
    name: &str,
    n: usize,
    concurrency: usize,
    work: impl Fn(usize) -> T + Sync,
    mut take: impl FnMut(usize, T),
) {
    let next = AtomicUsize::new(0);
    let (sender, receiver) = sync_channel(concurrency);
    let mut progress = Progress::new(name, n);
    std::thread::scope(|scope| {
        for _ in 0..concurrency.max(1) {
            let (sender, next, work) = (sender.clone(), &next, &work);
            scope.spawn(move || {
                loop {
                    let idx = next.fetch_add(1, Ordering::Relaxed);
                    if idx >= n || sender.send((idx, work(idx))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for (idx, result) in receiver {
            take(idx, result);
            progress.step();
        }
    });
}

/// A line that is rewritten on a terminal and printed now and then elsewhere.
struct Progress<'a> {
    name: &'a str,
    n: usize,
    n_done: usize,
    start: Instant,
    is_terminal: bool,
}

impl<'a> Progress<'a> {
    fn new(name: &'a str, n: usize) -> Self {
        Self { name, n, n_done: 0, start: Instant::now(), is_terminal: stderr().is_terminal() }
    }

    fn step(&mut self) {
        self.n_done += 1;
        let is_due =
            self.n_done.is_multiple_of(self.n.div_ceil(N_REPORTS)) || self.n_done == self.n;
        if self.is_terminal || is_due {
            self.print();
        }
    }

    fn print(&self) {
        let (opening, end) = match (self.is_terminal, self.n_done == self.n) {
            (false, _) => ("", "\n"),
            (true, true) => ("\r", "\n"),
            (true, false) => ("\r", ""),
        };
        let seconds = self.start.elapsed().as_secs_f64();
        let Self { name, n, n_done, .. } = self;
        let line = format!("{opening}{n_done}/{n} {name}, {seconds:.1} s{end}");
        // Progress is a courtesy: nobody reading it is no fault.
        let _ = stderr().write_all(line.as_bytes());
    }
}
