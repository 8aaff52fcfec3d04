//! What every request handler shares.

use crate::admission::Admission;
use crate::loaded::Models;
use crate::offload::Offload;
use crate::phase::Phases;
use config::FrontendConfig;
use router::Backend;
use std::sync::Arc;
use telemetry::{Health, Telemetry};

pub(crate) struct App {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) models: Models,
    pub(crate) offload: Arc<Offload>,
    pub(crate) admission: Admission,
    pub(crate) config: FrontendConfig,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) phases: Phases,
}

impl App {
    pub(crate) fn new(
        backend: Arc<dyn Backend>,
        config: FrontendConfig,
        telemetry: Arc<Telemetry>,
        phases: Phases,
    ) -> Arc<Self> {
        let offload = Arc::new(Offload::new(config.limits.n_blocking_max));
        Arc::new(Self {
            models: Models::new(Arc::clone(&backend), Arc::clone(&offload)),
            admission: Admission::new(&config.limits),
            backend,
            offload,
            config,
            telemetry,
            phases,
        })
    }

    /// Ready when at least one model is; otherwise what each lacks.
    pub(crate) fn health(&self) -> Health {
        let models = self.backend.models();
        if models.iter().any(|model| model.missing.is_none()) {
            return Health::default();
        }
        let missing = models.iter().filter_map(|model| {
            let role = model.missing.as_deref()?;
            Some(format!("{}: no {role} worker", model.name))
        });
        let missing: Vec<String> = missing.collect();
        let none = || vec!["no worker has registered".to_owned()];
        Health { missing: if missing.is_empty() { none() } else { missing } }
    }
}
