//! What computes: a loaded model, or the pretence of one. Loaded once, shared by all engines.

use config::worker::{DeviceChoice, LoadFormat, WorkerConfig};
use config::{EngineKind, MockConfig};
use engine::{Backend, MockCost, MockModel, MockScript};
use models::{Description, Model};
use std::num::NonZeroUsize;
use std::sync::Arc;
use tensor::Device;
use text::Tokenizer;
use types::{Error, Result};

/// A model that engines can be started on.
pub(crate) struct LoadedModel {
    pub(crate) description: Description,
    backing: Backing,
}

enum Backing {
    Weights(Arc<dyn Model>, Device),
    Mock(MockModel),
}

impl LoadedModel {
    /// Loads the model of `config`. Errors: its folder is not what it should be.
    pub(crate) fn load(config: &WorkerConfig, kind: &EngineKind) -> Result<Self> {
        let load_format = load_format(config);
        let mut description = models::describe(&config.model_folder, load_format)?;
        description.card.template_override.clone_from(&config.template_override);
        let backing = match kind {
            EngineKind::Mock(mock) => Backing::Mock(mock_model(mock, &description)?),
            EngineKind::Native => {
                let device = device(config.device, config.n_threads);
                let model = models::load(&config.model_folder, load_format, &device)?;
                Backing::Weights(model, device)
            }
        };
        Ok(Self { description, backing })
    }

    /// [`Self::load`], beside the async threads.
    pub(crate) async fn load_beside(config: &WorkerConfig, kind: &EngineKind) -> Result<Self> {
        let (config, kind) = (config.clone(), kind.clone());
        let load = tokio::task::spawn_blocking(move || Self::load(&config, &kind));
        load.await.map_err(|_| Error::internal("loading the model broke off"))?
    }

    /// What one more engine runs; all share the weights.
    pub(crate) fn backend(&self) -> Backend {
        match &self.backing {
            Backing::Weights(model, device) => Backend::Model(Arc::clone(model), device.clone()),
            Backing::Mock(mock) => Backend::Mock(mock.clone()),
        }
    }
}

/// Where the weights come from, in the words of the loader.
pub(crate) fn load_format(config: &WorkerConfig) -> models::LoadFormat {
    match config.load_format {
        LoadFormat::Auto => models::LoadFormat::Auto,
        LoadFormat::Dummy => models::LoadFormat::Dummy,
    }
}

fn device(choice: DeviceChoice, n_threads: Option<NonZeroUsize>) -> Device {
    match choice {
        DeviceChoice::Cpu => n_threads.map_or_else(Device::all_cpus, Device::cpu),
    }
}

fn mock_model(mock: &MockConfig, description: &Description) -> Result<MockModel> {
    let answer = Tokenizer::from_card(&description.card)?.encode(&mock.answer)?;
    Ok(MockModel {
        spec: description.spec.clone(),
        script: MockScript::Cycle(answer),
        answer_len: None,
        cost: MockCost {
            step: mock.step,
            seq: mock.decode_token,
            prompt_token: mock.prompt_token,
            patch: mock.patch,
        },
    })
}
