//! A histogram whose values somebody else counts, copied whole whenever metrics are read.

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};
use std::sync::{Arc, Mutex, PoisonError};

/// A copy of somebody's histogram; clones are the same one. Without a copy it has no buckets.
#[derive(Debug, Clone, Default)]
pub struct Mirrored(Arc<Mutex<Copied>>);

#[derive(Debug, Default)]
struct Copied {
    /// Upper bound and number of values of each bucket; the last bound is infinite.
    buckets: Vec<(f64, u64)>,
    sum: f64,
}

impl Mirrored {
    /// Shows these buckets from now on (upper bound, `None` for infinity, and how many values are
    /// in this one alone) and the sum of all values; both in units of `unit`.
    pub fn copy(&self, buckets: impl Iterator<Item = (Option<u64>, u64)>, sum: u64, unit: f64) {
        let bound = |bound: Option<u64>| bound.map_or(f64::INFINITY, |bound| bound as f64 * unit);
        let buckets = buckets.map(|(upper, count)| (bound(upper), count)).collect();
        let copied = Copied { buckets, sum: sum as f64 * unit };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = copied;
    }
}

impl EncodeMetric for Mirrored {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let copied = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = copied.buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(copied.sum, count, &copied.buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for Mirrored {
    const TYPE: MetricType = MetricType::Histogram;
}
