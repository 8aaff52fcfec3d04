//! When waiting has lasted too long. Must not know what is waited for.

use std::time::{Duration, Instant};

/// How long one side waits for the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// While UCX moves nothing at all.
    pub(crate) idle: Duration,
    /// While UCX moves bytes: they may be part of what is awaited, since UCX does not say how much
    /// of a piece has come, or belong to others.
    pub(crate) busy: Duration,
}

/// The time, and the time at which UCX last moved something.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    pub(crate) now: Instant,
    pub(crate) last_moved: Instant,
}

impl Patience {
    /// Whether whoever has waited since then waits no longer.
    pub(crate) fn is_over(&self, since: Instant, clock: Clock) -> bool {
        let has_lasted = |since, at_most| clock.now.duration_since(since) > at_most;
        has_lasted(since, self.busy)
            || (has_lasted(since, self.idle) && has_lasted(clock.last_moved, self.idle))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_move_lengthen_patience_but_not_for_ever() {
        let patience = Patience { idle: Duration::from_secs(5), busy: Duration::from_secs(20) };
        let begun = Instant::now();
        let check = |since_s, last_moved_s, now_s, expected| {
            let at = |seconds| begun + Duration::from_secs(seconds);
            let clock = Clock { now: at(now_s), last_moved: at(last_moved_s) };
            let found = patience.is_over(at(since_s), clock);
            assert_eq!(found, expected, "{since_s} {last_moved_s} {now_s}");
        };
        check(0, 0, 5, false);
        check(0, 0, 6, true);
        check(3, 0, 6, false);
        check(0, 3, 8, false);
        check(0, 3, 9, true);
        check(0, 20, 20, false);
        check(0, 21, 21, true);
    }
}
