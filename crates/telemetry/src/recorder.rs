//! What a worker says of itself as it happens: bytes that it moved, and work that was cancelled.
//!
//! Whoever calls it need not know how metrics are kept.

use crate::buckets;
use crate::worker::{CancellationCounters, RealCounter};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use std::time::Duration;
use types::stage::Stage;

/// Bytes in a gigabyte.
const GIGABYTE: f64 = 1e9;

/// What moves from one worker to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// Rows of a medium: `triptych_embedding_moved_bytes_total` and its like.
    Embedding,
    /// KV blocks: `triptych_kv_moved_bytes_total` and its like.
    Kv,
}

/// The worker's side of its metrics; clones count the same. The default one counts for nobody.
#[derive(Clone)]
pub struct WorkerRecorder {
    embedding: MoveMetrics,
    kv: MoveMetrics,
    cancellations: CancellationCounters,
}

#[derive(Clone)]
pub(crate) struct MoveMetrics {
    pub(crate) bytes: Counter,
    pub(crate) seconds: RealCounter,
    pub(crate) rate: Histogram,
}

impl WorkerRecorder {
    pub(crate) fn new(
        embedding: MoveMetrics,
        kv: MoveMetrics,
        cancellations: CancellationCounters,
    ) -> Self {
        Self { embedding, kv, cancellations }
    }

    /// A read of `n_bytes` from another worker has ended well, `time` after it was asked for.
    pub fn moved(&self, what: Moved, n_bytes: usize, time: Duration) {
        let metrics = match what {
            Moved::Embedding => &self.embedding,
            Moved::Kv => &self.kv,
        };
        let seconds = time.as_secs_f64();
        metrics.bytes.inc_by(n_bytes as u64);
        metrics.seconds.inc_by(seconds);
        if seconds > 0.0 {
            metrics.rate.observe(n_bytes as f64 / GIGABYTE / seconds);
        }
    }

    /// A call was dropped by its caller while it was in `stage`.
    pub fn cancelled(&self, stage: Stage) {
        self.cancellations.count(stage);
    }
}

impl Default for WorkerRecorder {
    fn default() -> Self {
        let moves = || MoveMetrics {
            bytes: Counter::default(),
            seconds: RealCounter::default(),
            rate: buckets::gigabytes_per_second(),
        };
        Self::new(moves(), moves(), CancellationCounters::default())
    }
}
