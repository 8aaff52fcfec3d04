//! What every request handler shares.

use crate::admission::Admission;
use crate::keys::ApiKeys;
use crate::loaded::Models;
use crate::offload::Offload;
use crate::pace::Streams;
use crate::phase::{Phase, Phases};
use config::FrontendConfig;
use router::{Backend, ServedModel};
use std::sync::Arc;
use std::time::Duration;
use telemetry::{Health, Telemetry};

/// How often to look whether a model has come whose tokenizer can be loaded before it is needed.
const PRELOAD_PAUSE: Duration = Duration::from_millis(20);

pub(crate) struct App {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) models: Models,
    pub(crate) offload: Arc<Offload>,
    pub(crate) admission: Admission,
    /// One of them must come with a request; `None` lets everybody ask.
    pub(crate) keys: Option<ApiKeys>,
    pub(crate) config: FrontendConfig,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) phases: Phases,
    pub(crate) streams: Streams,
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
            keys: config.access.api_keys.as_deref().map(ApiKeys::new),
            backend,
            offload,
            config,
            telemetry,
            phases,
            streams: Streams::default(),
        })
    }

    /// Ready when at least one model can answer; otherwise what each lacks.
    ///
    /// Not ready while draining, so that nobody sends more.
    pub(crate) async fn health(&self) -> Health {
        if self.phases.now() != Phase::Serving {
            return Health { missing: vec!["the server is stopping".to_owned()] };
        }
        let mut missing = Vec::new();
        for model in self.backend.models() {
            match self.lacks(&model).await {
                None => return Health::default(),
                Some(lack) => missing.push(lack),
            }
        }
        if missing.is_empty() {
            missing.push("no worker has registered".to_owned());
        }
        Health { missing }
    }

    /// Loads the tokenizer of the first model to be ready, so that no request waits for it.
    pub(crate) async fn preload(self: Arc<Self>) {
        let ready = || self.backend.models().into_iter().find(|model| model.missing.is_none());
        let model = loop {
            match ready() {
                Some(model) => break model,
                None => tokio::time::sleep(PRELOAD_PAUSE).await,
            }
        };
        if let Err(error) = self.models.get(&model.name).await {
            tracing::warn!(model = model.name, %error, "the model's card cannot be used");
        }
    }

    /// What `model` lacks before it can answer: a role, or a card that can be used.
    async fn lacks(&self, model: &ServedModel) -> Option<String> {
        if let Some(role) = &model.missing {
            return Some(format!("{}: no {role} worker", model.name));
        }
        let unusable = self.models.get(&model.name).await.err()?;
        Some(format!("{}: {unusable}", model.name))
    }
}
