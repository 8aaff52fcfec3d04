//! What a running process says of itself: metrics, logs, trace ids, and the system port.
//!
//! [`Telemetry`] owns the registry; whoever does the work updates the handles in
//! [`FrontendMetrics`] and [`WorkerMetrics`]. Must not know planes, tensors or any API's shapes.

mod buckets;
pub mod frontend;
pub mod log;
pub mod system;
pub mod trace;
pub mod worker;

use prometheus_client::registry::Registry;

pub use frontend::{FrontendMetrics, RequestMetrics};
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
}

impl Telemetry {
    /// All metrics, at zero.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let frontend = FrontendMetrics::register(&mut registry);
        let workers = WorkerMetrics::register(&mut registry);
        Self { frontend, workers, registry }
    }

    /// All metrics as Prometheus reads them.
    pub fn exposition(&self) -> String {
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
