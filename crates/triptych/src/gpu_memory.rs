//! How a GPU's memory is shared out once the weights are there: working memory grows to the most
//! that can ever be needed, embedding rows get what was asked for, KV caches most of the rest.

use crate::sizes::{KvRoom, block_bytes, engine_config, step_limits};
use crate::worst_case::{StepLimits, Trial};
use config::Role;
use config::worker::{Modality, WorkerConfig};
use models::{Description, Model};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tensor::Device;
use tensor::cuda::{Cuda, Urgency};
use types::{Error, ErrorKind, Result};

/// What is taken later and cannot be tried before: recorded steps, samplers, the driver's own.
const LATER_BYTES: usize = 512 << 20;

/// The lanes of a device that one worker computes on.
#[derive(Clone)]
pub(crate) struct Lanes {
    /// Of steps.
    pub(crate) steps: Device,
    /// Of the tower, where it has one of its own.
    pub(crate) tower: Option<Device>,
}

/// A GPU shared out between workers.
pub(crate) struct Shared {
    /// Those of each worker, with all the working memory that they will need.
    pub(crate) lanes: Vec<Lanes>,
    /// What each worker with KV blocks may take for them.
    pub(crate) kv: KvRoom,
}

/// What the log says of the loading.
pub(crate) struct Loaded {
    /// Free before the weights came.
    pub(crate) n_bytes_free_before: usize,
    /// How long they took.
    pub(crate) time: Duration,
}

/// Tries out the worst case on a lane for each of `roles`, and shares out what is left.
///
/// Errors: the GPU has not enough memory, in words that say what to change.
pub(crate) fn share_out(
    cuda: &Arc<Cuda>,
    model: &Arc<dyn Model>,
    (config, description): (&WorkerConfig, &Description),
    roles: &[Role],
    loaded: &Loaded,
) -> Result<Shared> {
    let began = Instant::now();
    let context = cuda.context();
    let after_weights = context.memory()?.n_bytes_free;
    let limits = step_limits(config, &description.spec);
    let mut lanes = Vec::with_capacity(roles.len());
    for (idx, &role) in roles.iter().enumerate() {
        let first = Device::Cuda(Arc::clone(cuda));
        let tower = first.another_lane(Urgency::Later)?;
        let steps = if idx == 0 { first } else { first.another_lane(Urgency::Now)? };
        let own = Lanes { steps, tower: Some(tower) };
        try_out(&own, (model, limits), role, (config, description)).map_err(too_small)?;
        lanes.push(own);
    }
    let after_trials = context.memory()?.n_bytes_free;
    let taken = Taken {
        weights: loaded.n_bytes_free_before.saturating_sub(after_weights),
        scratch: after_weights.saturating_sub(after_trials),
        embeddings: config.embedding_cache_bytes * roles.len(),
    };
    let n_pools = roles.iter().filter(|&&role| role != Role::Encode).count().max(1);
    let left = after_trials.saturating_sub(taken.embeddings + LATER_BYTES);
    let fraction = config.engine.kv_cache.free_gpu_memory_fraction;
    let n_bytes = (left as f64 * fraction) as usize / n_pools;
    let kv = KvRoom::Gpu { n_bytes, dtype: cuda.options().compute };
    let times = (loaded.time, began.elapsed());
    say(cuda, &taken, (config, description, kv, n_pools), times)?;
    Ok(Shared { lanes, kv })
}

/// What a worker in `role` may have to compute.
fn try_out(
    lanes: &Lanes,
    (model, limits): (&Arc<dyn Model>, StepLimits),
    role: Role,
    (config, description): (&WorkerConfig, &Description),
) -> Result<()> {
    let has_tower = role != Role::Decode && config.modality == Modality::Multimodal;
    if let Some(device) = lanes.tower.as_ref().filter(|_| has_tower) {
        Trial { device, model, limits }.encode(&*description.processor)?;
    }
    let trial = Trial { device: &lanes.steps, model, limits };
    if matches!(role, Role::Aggregated | Role::Prefill) {
        trial.prefill()?;
    }
    if matches!(role, Role::Aggregated | Role::Decode) {
        trial.decode()?;
    }
    Ok(())
}

/// Bytes that are taken already, or promised.
struct Taken {
    weights: usize,
    scratch: usize,
    embeddings: usize,
}

/// One line for the log.
fn say(
    cuda: &Cuda,
    taken: &Taken,
    (config, description, kv, n_pools): (&WorkerConfig, &Description, KvRoom, usize),
    (loading, trying): (Duration, Duration),
) -> Result<()> {
    let n_blocks = engine_config(config, &description.spec, kv)?.scheduler.n_blocks;
    let block_size = config.engine.kv_cache.tokens_per_block;
    let kv_bytes = n_pools * n_blocks * block_bytes(&config.engine, &description.spec, kv.dtype());
    let each = if n_pools > 1 { format!(" in each of {n_pools} pools") } else { String::new() };
    tracing::info!(
        "memory of GPU {}: weights {} (read in {:.1} s), working memory {} (tried in {:.1} s), \
         embedding rows {}, KV cache {} ({n_blocks} blocks of {block_size}, {} tokens{each})",
        cuda.options().ordinal,
        shown(taken.weights),
        loading.as_secs_f64(),
        shown(taken.scratch),
        trying.as_secs_f64(),
        shown(taken.embeddings),
        shown(kv_bytes),
        n_blocks * block_size,
    );
    Ok(())
}

fn too_small(error: Error) -> Error {
    let words = "the largest step or picture cannot be computed on this GPU beside the weights";
    let remedy = "set a smaller max_num_tokens or encoder_max_num_tokens";
    match error.kind {
        ErrorKind::Unavailable => {
            Error { message: format!("{words}: {}; {remedy}", error.message), ..error }
        }
        _ => error,
    }
}

/// In the largest unit of which there is at least one.
pub(crate) fn shown(n_bytes: usize) -> String {
    let size = n_bytes as f64;
    match n_bytes {
        0..0x10_0000 => format!("{:.0} KiB", size / 1024.0),
        0x10_0000..0x4000_0000 => format!("{:.0} MiB", size / (1 << 20) as f64),
        _ => format!("{:.1} GiB", size / (1 << 30) as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_in_their_unit() {
        let sizes = [10 << 10, 5 << 20, 3 << 29].map(shown);
        assert_eq!(sizes, ["10 KiB", "5 MiB", "1.5 GiB"]);
    }
}
