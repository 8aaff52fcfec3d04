//! What a running process says of itself: metrics, logs, trace ids, and the system port.
//!
//! [`Telemetry`] owns the registry; whoever does the work updates the handles in
//! [`FrontendMetrics`] and [`WorkerMetrics`]. Must not know planes, tensors or any API's shapes.

mod buckets;
pub mod frontend;
pub mod log;
mod mirrored;
mod recorder;
pub mod system;
pub mod trace;
pub mod worker;

use prometheus_client::registry::Registry;
use std::sync::{Mutex, PoisonError};

pub use frontend::{FrontendMetrics, RequestMetrics};
pub use mirrored::Mirrored;
pub use recorder::{Moved, WorkerRecorder};
pub use system::Health;
pub use trace::TraceParent;
pub use worker::{RoleMetrics, WorkerMetrics};

/// Content type of [`Telemetry::exposition`].
pub const EXPOSITION_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics of one process.
pub struct Telemetry {
    /// Of the HTTP side.
    pub frontend: FrontendMetrics,
    /// Of the workers.
    pub workers: WorkerMetrics,
    registry: Registry,
    before_reading: Mutex<Vec<Refresh>>,
}

/// Brings metrics up to date with what somebody else counts.
type Refresh = Box<dyn Fn() + Send + Sync>;

impl Telemetry {
    /// All metrics, at zero.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let frontend = FrontendMetrics::register(&mut registry);
        let workers = WorkerMetrics::register(&mut registry);
        Self { frontend, workers, registry, before_reading: Mutex::default() }
    }

    /// Calls `refresh` each time before the metrics are read.
    pub fn before_reading(&self, refresh: impl Fn() + Send + Sync + 'static) {
        let mut refreshes = self.before_reading.lock().unwrap_or_else(PoisonError::into_inner);
        refreshes.push(Box::new(refresh));
    }

    /// All metrics as Prometheus reads them.
    pub fn exposition(&self) -> String {
        let refreshes = self.before_reading.lock().unwrap_or_else(PoisonError::into_inner);
        refreshes.iter().for_each(|refresh| refresh());
        let mut text = String::new();
        // Writing into a string cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new()
    }
}
