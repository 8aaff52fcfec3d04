//! How often the clients of streams are written to: each token at once while writes are few,
//! several together when there would be too many.
//!
//! A write costs far more than a token. So a stream may be written to again after a gap that grows
//! with the number of streams. Who generates slower than that never waits, and neither does a
//! first token.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

/// A stream's share of the gap: all streams together are written to at most 10,000 times a second.
const GAP_PER_STREAM: Duration = Duration::from_micros(100);

/// Longest gap, so that no client sees a stutter.
const GAP_MAX: Duration = Duration::from_millis(5);

/// A shorter gap is not worth a timer.
const GAP_MIN: Duration = Duration::from_millis(1);

/// The streams of a server, counted.
#[derive(Clone, Default)]
pub(crate) struct Streams(Arc<AtomicUsize>);

/// One of them.
pub(crate) struct Pace {
    streams: Streams,
    last: Instant,
}

impl Streams {
    /// One more, until the pace is dropped.
    pub(crate) fn enter(&self) -> Pace {
        self.0.fetch_add(1, Ordering::Relaxed);
        Pace { streams: self.clone(), last: Instant::now() }
    }
}

impl Pace {
    /// Waits until the next write may be. Everybody else who is ready goes first, so that more
    /// tokens may come meanwhile; where nobody is, the turn comes back at once.
    pub(crate) async fn turn(&mut self) {
        let next = self.last + gap(self.streams.0.load(Ordering::Relaxed));
        if next > Instant::now() {
            sleep_until(next).await;
        } else {
            yield_now().await;
        }
        self.last = Instant::now();
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        self.streams.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn gap(n_streams: usize) -> Duration {
    let n_streams = u32::try_from(n_streams).unwrap_or(u32::MAX);
    let gap = GAP_PER_STREAM.saturating_mul(n_streams).min(GAP_MAX);
    if gap < GAP_MIN { Duration::ZERO } else { gap }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_grows_with_the_streams() {
        let gaps = [0, 1, 9, 10, 20, 50, 8000].map(|n| gap(n).as_micros());
        assert_eq!(gaps, [0, 0, 0, 1000, 2000, 5000, 5000]);
    }

    #[tokio::test]
    async fn among_many_streams_a_turn_comes_after_the_gap() {
        let streams = Streams::default();
        let others: Vec<Pace> = (0..29).map(|_| streams.enter()).collect();
        let mut pace = streams.enter();
        for _ in 0..3 {
            let last = pace.last;
            pace.turn().await;
            assert!(pace.last - last >= gap(30), "{:?}", pace.last - last);
        }
        drop(others);
        assert_eq!(streams.0.load(Ordering::Relaxed), 1);
    }
}
