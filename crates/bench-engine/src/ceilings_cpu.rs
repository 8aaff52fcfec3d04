//! The rates of the processor's memory, with as many threads as compute.

use crate::statistics::median;
use std::time::Instant;

/// Numbers of eight bytes that are read: far more than caches hold.
const N_WORDS: usize = 32 << 20;
/// Runs, of which the median counts.
const N_RUNS: usize = 5;

/// Bytes read a second, and bytes read and written a second in a copy.
pub(crate) fn memory(n_threads: usize) -> (f64, f64) {
    let from: Vec<u64> = (0..N_WORDS as u64).collect();
    let mut to = vec![1_u64; N_WORDS];
    let n_bytes = (N_WORDS * size_of::<u64>()) as f64;
    let share = N_WORDS.div_ceil(n_threads);
    let read = || {
        let sums = std::thread::scope(|scope| {
            let threads: Vec<_> =
                from.chunks(share).map(|part| scope.spawn(move || sum(part))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or_default()).collect::<Vec<_>>()
        });
        std::hint::black_box(sums);
    };
    let read_seconds = seconds(read);
    let copy = || {
        std::thread::scope(|scope| {
            for (from, to) in from.chunks(share).zip(to.chunks_mut(share)) {
                scope.spawn(|| to.copy_from_slice(from));
            }
        });
    };
    (n_bytes / read_seconds, 2.0 * n_bytes / seconds(copy))
}

/// Several sums side by side, so that additions do not wait for each other.
fn sum(words: &[u64]) -> u64 {
    let mut sums = [0_u64; 8];
    for words in words.chunks_exact(sums.len()) {
        sums.iter_mut().zip(words).for_each(|(sum, word)| *sum = sum.wrapping_add(*word));
    }
    sums.iter().fold(0, |all, sum| all.wrapping_add(*sum))
}

fn seconds(mut run: impl FnMut()) -> f64 {
    run();
    let runs: Vec<f64> = (0..N_RUNS)
        .map(|_| {
            let started = Instant::now();
            run();
            started.elapsed().as_secs_f64()
        })
        .collect();
    median(&runs)
}
