//! What a call says beside its message, and how long its work may wait for others. Must not know
//! what is waited for.

use planes::Call;
use std::time::{Duration, Instant};

/// How long a call may wait, and others may be waited for, behind its first token: an answer that
/// is taken up again has its first token behind it, and a prompt's blocks are read after it.
const AFTERWARDS: Duration = Duration::from_secs(120);

/// Longest time to a first token that a call may ask for.
const FIRST_TOKEN_TIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Transfers get time for their size beside the configured time, at this rate.
const SLOWEST_BYTES_PER_S: f64 = 20e6;

/// How much longer memory is lent than reading it may take. The reader's clock starts later, and
/// is the one that should end first.
const LEND_MARGIN: Duration = Duration::from_secs(5);

/// What a call says beside its message.
pub(crate) struct Terms {
    /// W3C trace context, empty when there is none.
    pub(crate) trace: String,
    /// When the first token must be there, or whatever else the call is to yield first.
    first_token_by: Instant,
}

impl Terms {
    /// What `call`, which has just come, says.
    pub(crate) fn of(call: &Call) -> Self {
        let first_token_by = Instant::now() + call.deadline.min(FIRST_TOKEN_TIME_MAX);
        Self { trace: call.trace.clone(), first_token_by }
    }

    /// How long work of this call may wait for others, and what it yields is kept for its caller.
    ///
    /// The caller itself gives up at its first token's deadline, and takes everything along then;
    /// this is longer, so that nothing ends under a request that still has time.
    pub(crate) fn patience(&self) -> Duration {
        self.first_token_by.saturating_duration_since(Instant::now()) + AFTERWARDS
    }
}

/// How long the transfer of `n_bytes`, rows or KV blocks, may take where `configured` is the time
/// for small ones.
pub(crate) fn transfer_time(configured: Duration, n_bytes: usize) -> Duration {
    configured + Duration::from_secs_f64(n_bytes as f64 / SLOWEST_BYTES_PER_S)
}

/// How long memory is lent to a reader who begins at once and may take `transfer_time`.
pub(crate) fn lend_time(transfer_time: Duration) -> Duration {
    transfer_time + LEND_MARGIN
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    const MINUTE: Duration = Duration::from_secs(60);

    fn terms(deadline: Duration) -> Terms {
        Terms::of(&Call { deadline, trace: String::new(), body: Bytes::new() })
    }

    #[test]
    fn a_large_transfer_gets_time_for_its_size() {
        assert_eq!(transfer_time(MINUTE, 0), MINUTE);
        // 128k tokens of a model of seven thousand million parameters.
        let large = transfer_time(MINUTE, 7_500_000_000);
        assert!(large >= Duration::from_secs(400), "{large:?}");
        assert!(lend_time(large) > large, "the lender outlasts the reader");
    }

    #[test]
    fn a_call_waits_for_as_long_as_its_request_has_time() {
        let long = Duration::from_secs(600);
        assert!(terms(long).patience() > long);
        assert!(terms(Duration::ZERO).patience() >= MINUTE, "work that is taken up again");
        assert!(terms(Duration::MAX).patience() <= FIRST_TOKEN_TIME_MAX + AFTERWARDS);
    }
}
