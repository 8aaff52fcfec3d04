//! What computes: a loaded model, or the pretence of one. Loaded once, shared by all engines.

use crate::gemm_choices;
use crate::gpu_memory::{Lanes, Loaded, share_out};
use crate::gpu_moves;
use crate::load_progress::Shower;
use crate::sizes::KvRoom;
use config::worker::{LoadFormat, WorkerConfig};
use config::{EngineKind, MockConfig, Role, TransportChoice};
use engine::{Backend, MockCost, MockModel, MockScript};
use models::{Description, Model};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use tensor::Device;
use text::Tokenizer;
use types::{Error, Result};

/// A model that engines can be started on, one for each of the roles it was loaded for.
pub(crate) struct LoadedModel {
    description: Description,
    backing: Backing,
    kv: KvRoom,
    /// Where a GPU's algorithms are kept.
    gemm_choices: Option<PathBuf>,
}

enum Backing {
    /// With the lanes of each worker.
    Weights(Arc<dyn Model>, Vec<Lanes>),
    Mock(Box<MockModel>, usize),
}

/// The workers that a model is loaded for.
#[derive(Debug, Clone)]
pub(crate) struct Crew {
    /// One for each.
    pub(crate) roles: Vec<Role>,
    /// What carries their bulk bytes.
    pub(crate) transport: TransportChoice,
}

/// One worker's part of a loaded model.
pub(crate) struct ModelShare<'a> {
    pub(crate) description: &'a Description,
    pub(crate) backend: Backend,
    /// The lane of the tower, where it has one of its own.
    pub(crate) tower: Option<Device>,
    pub(crate) kv: KvRoom,
}

impl LoadedModel {
    /// Loads the model of `config` for the workers of `crew`.
    ///
    /// Errors: its folder is not what it should be; its device cannot be used, or is too small.
    pub(crate) fn load(config: &WorkerConfig, kind: &EngineKind, crew: &Crew) -> Result<Self> {
        let mut description = models::describe(&config.model_folder, load_format(config))?;
        description.card.template_override.clone_from(&config.template_override);
        match kind {
            EngineKind::Mock(mock) => {
                let mock = Box::new(mock_model(mock, &description)?);
                let backing = Backing::Mock(mock, crew.roles.len());
                Ok(Self { description, backing, kv: KvRoom::Host, gemm_choices: None })
            }
            EngineKind::Native => Self::with_weights(config, description, crew),
        }
    }

    fn with_weights(config: &WorkerConfig, description: Description, crew: &Crew) -> Result<Self> {
        let device = crate::device::open(config, description.dtype)?;
        gpu_moves::check(&device, crew)?;
        let Device::Cuda(cuda) = &device else {
            let model = read_weights(config, &device)?;
            let lanes = Lanes { steps: device, tower: None };
            let backing = Backing::Weights(model, vec![lanes; crew.roles.len()]);
            return Ok(Self { description, backing, kv: KvRoom::Host, gemm_choices: None });
        };
        if let Some(path) = &config.gemm_choices {
            gemm_choices::take_up(cuda, path);
        }
        let n_bytes_free_before = cuda.context().memory()?.n_bytes_free;
        let began = Instant::now();
        let model = read_weights(config, &device)?;
        let loaded = Loaded { n_bytes_free_before, time: began.elapsed() };
        let shared = share_out(cuda, &model, (config, &description), &crew.roles, &loaded)?;
        let gemm_choices = config.gemm_choices.clone();
        let backing = Backing::Weights(model, shared.lanes);
        Ok(Self { description, backing, kv: shared.kv, gemm_choices })
    }

    /// [`Self::load`], beside the async threads.
    pub(crate) async fn load_beside(
        config: &WorkerConfig,
        kind: &EngineKind,
        crew: Crew,
    ) -> Result<Self> {
        let (config, kind) = (config.clone(), kind.clone());
        let load = tokio::task::spawn_blocking(move || Self::load(&config, &kind, &crew));
        load.await.map_err(|_| Error::internal("loading the model broke off"))?
    }

    /// What the workers run, in the order of the roles; all share the weights.
    pub(crate) fn shares(&self) -> Vec<ModelShare<'_>> {
        let (description, kv) = (&self.description, self.kv);
        match &self.backing {
            Backing::Weights(model, lanes) => {
                let share = |lanes: &Lanes| {
                    let backend = Backend::Model(Arc::clone(model), lanes.steps.clone());
                    ModelShare { description, backend, tower: lanes.tower.clone(), kv }
                };
                lanes.iter().map(share).collect()
            }
            Backing::Mock(mock, n_workers) => {
                let backend = || Backend::Mock(mock.clone());
                let share = |_| ModelShare { description, backend: backend(), tower: None, kv };
                (0..*n_workers).map(share).collect()
            }
        }
    }

    /// Keeps the algorithms of the products that have been computed by now for other processes.
    pub(crate) fn keep_gemm_choices(&self) {
        if let (Some(Device::Cuda(cuda)), Some(path)) = (self.device(), &self.gemm_choices) {
            gemm_choices::keep(cuda, path);
        }
    }

    /// The device with the weights; none where there is nothing but a pretence.
    pub(crate) fn device(&self) -> Option<&Device> {
        match &self.backing {
            Backing::Weights(_, lanes) => lanes.first().map(|lanes| &lanes.steps),
            Backing::Mock(..) => None,
        }
    }
}

/// Reads the weights onto a device, showing how far it is.
fn read_weights(config: &WorkerConfig, device: &Device) -> Result<Arc<dyn Model>> {
    let shower = Shower::new();
    let tell = |progress| shower.show(progress);
    let model = models::load_telling(&config.model_folder, load_format(config), device, &tell)?;
    device.synchronize()?;
    if let Device::Cuda(cuda) = device {
        cuda.end_loading();
    }
    Ok(model)
}

/// Where the weights come from, in the words of the loader.
pub(crate) fn load_format(config: &WorkerConfig) -> models::LoadFormat {
    match config.load_format {
        LoadFormat::Auto => models::LoadFormat::Auto,
        LoadFormat::Dummy => models::LoadFormat::Dummy,
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
        steps_max: mock.steps_max,
    })
}
