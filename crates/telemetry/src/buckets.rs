//! Bounds of the histograms, in one place so that dashboards of several processes line up.

use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

/// 1 ms to about 9 minutes, doubling.
pub(crate) fn request_seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 20))
}

/// 0.1 ms to about 3.3 s, doubling.
pub(crate) fn step_seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 16))
}

/// 1 to 262,144 tokens, in steps of four.
pub(crate) fn tokens() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 4.0, 10))
}

/// 1 MB/s to 524 GB/s, doubling.
pub(crate) fn gigabytes_per_second() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 20))
}
