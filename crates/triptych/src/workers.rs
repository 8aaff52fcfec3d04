//! One worker for each role: an engine of its own, over the same weights.

use crate::model::LoadedModel;
use crate::sizes::engine_config;
use config::Role;
use config::worker::{Modality, WorkerConfig};
use engine::EngineConfig;
use planes::Planes;
use std::sync::Arc;
use types::Result;
use types::stage::{Stage, Stages};
use worker::{MediaPolicy, Worker, WorkerParts};

/// Blocks of an engine that never holds KV.
const N_BLOCKS_WITHOUT_KV: usize = 1;

/// Starts a worker in `role`. Errors: impossible sizes, no memory, or a plane refused.
pub(crate) async fn start(
    planes: &Planes,
    model: &LoadedModel,
    config: &WorkerConfig,
    role: Role,
) -> Result<Worker> {
    let description = &model.description;
    let sizes = sizes_of_role(engine_config(config, &description.spec)?, role);
    let mut card = description.card.clone();
    card.max_seq_len = sizes.scheduler.max_seq_len as u32;
    let placeholders = match config.modality {
        Modality::Text => Vec::new(),
        Modality::Multimodal => description.spec.placeholders.clone(),
    };
    Worker::start(WorkerParts {
        planes: planes.clone(),
        engine: engine::start(model.backend(), sizes)?,
        processor: Arc::clone(&description.processor),
        placeholders,
        card,
        model: config.served_model_name.clone(),
        stages: stages(role),
        namespace: config.namespace.clone(),
        media: media_policy(config),
    })
    .await
}

/// A prefill worker has the tower as well, for when no encoder is there.
fn stages(role: Role) -> Stages {
    match role {
        Role::Aggregated => Stages::ALL,
        Role::Encode => Stages::of(&[Stage::Encode]),
        Role::Prefill => Stages::of(&[Stage::Encode, Stage::Prefill]),
        Role::Decode => Stages::of(&[Stage::Decode]),
    }
}

fn sizes_of_role(mut sizes: EngineConfig, role: Role) -> EngineConfig {
    match role {
        Role::Encode => sizes.scheduler.n_blocks = N_BLOCKS_WITHOUT_KV,
        Role::Aggregated | Role::Prefill | Role::Decode => {}
    }
    sizes
}

fn media_policy(config: &WorkerConfig) -> MediaPolicy {
    let n_cores = std::thread::available_parallelism().map_or(1, usize::from);
    let max_bytes = usize::try_from(config.media_file_bytes_max).unwrap_or(usize::MAX);
    MediaPolicy {
        allowed_local_path: config.allowed_local_media_path.clone(),
        limits: media::Limits { max_bytes, ..media::Limits::default() },
        n_decoders: n_cores,
    }
}
