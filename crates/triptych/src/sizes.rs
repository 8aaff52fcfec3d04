//! From the configuration to the sizes of an engine.

use crate::worst_case::StepLimits;
use config::EngineArgs;
use config::worker::WorkerConfig;
use engine::{EngineConfig, SchedulerConfig, usual_graph_batch_sizes};
use models::ModelSpec;
use tensor::{DType, KvLayout};
use types::{Error, ErrorKind, Result};

/// A shorter beginning of a prompt waits for the rows behind it: a step of a few rows takes nearly
/// as long as one of these.
const MIN_PIECE_TOKENS: usize = 64;

/// Largest KV pool that is taken without being asked for.
const KV_BYTES_MAX: usize = 4 << 30;

/// Part of the free memory that the KV pool takes at most without being asked for.
const KV_FREE_MEMORY_DIVISOR: usize = 4;

/// Free memory to assume where the system does not say.
const FREE_MEMORY_UNKNOWN: usize = 2 << 30;

/// Where a KV pool lies, and how much memory it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KvRoom {
    /// The host's, as much as is free and sensible.
    Host,
    /// A GPU's: so many bytes at most, of elements of this type.
    Gpu { n_bytes: usize, dtype: DType },
}

impl KvRoom {
    /// Type of the cached keys and values.
    pub(crate) fn dtype(self) -> DType {
        match self {
            Self::Host => DType::F32,
            Self::Gpu { dtype, .. } => dtype,
        }
    }
}

/// The most that a step of an engine may be.
pub(crate) fn step_limits(config: &WorkerConfig, spec: &ModelSpec) -> StepLimits {
    let args = &config.engine;
    let max_seq_len = args.max_seq_len.map_or(spec.max_seq_len, |max| max.min(spec.max_seq_len));
    // Without chunks a prompt must fit into one step.
    let max_num_tokens = match args.enable_chunked_prefill {
        true => args.max_num_tokens,
        false => args.max_num_tokens.max(max_seq_len),
    };
    StepLimits {
        max_batch_size: args.max_batch_size,
        max_num_tokens,
        max_seq_len,
        max_pictures: args.encoder_max_batch_size,
        max_patches: args.encoder_max_num_tokens,
        block_size: args.kv_cache.tokens_per_block,
    }
}

/// The sizes of an engine for a model. Errors: impossible ones, or no memory for any KV block.
pub(crate) fn engine_config(
    config: &WorkerConfig,
    spec: &ModelSpec,
    kv: KvRoom,
) -> Result<EngineConfig> {
    let args = &config.engine;
    let limits = step_limits(config, spec);
    let scheduler = SchedulerConfig {
        block_size: limits.block_size,
        n_blocks: n_blocks(args, spec, kv)?,
        max_batch_size: limits.max_batch_size,
        max_num_tokens: limits.max_num_tokens,
        min_piece_tokens: MIN_PIECE_TOKENS,
        max_seq_len: limits.max_seq_len,
        max_queue_len: config.queue_len_max,
        reuse_blocks: args.kv_cache.enable_block_reuse,
        encoder_max_num_tokens: limits.max_patches,
        encoder_max_batch_size: limits.max_pictures,
    };
    scheduler.validate()?;
    Ok(EngineConfig {
        scheduler,
        embedding_bytes: config.embedding_cache_bytes,
        eos_token_ids: spec.eos_token_ids.clone(),
        kv_dtype: kv.dtype(),
        graph_batch_sizes: graph_batch_sizes(args),
        tower: None,
        overlap: kv != KvRoom::Host && !args.disable_overlap_scheduler,
    })
}

fn graph_batch_sizes(args: &EngineArgs) -> Vec<usize> {
    let graphs = &args.cuda_graphs;
    match &graphs.batch_sizes {
        _ if !graphs.enabled => Vec::new(),
        Some(sizes) => sizes.clone(),
        None => usual_graph_batch_sizes(args.max_batch_size),
    }
}

fn n_blocks(args: &EngineArgs, spec: &ModelSpec, kv: KvRoom) -> Result<usize> {
    let block_size = args.kv_cache.tokens_per_block;
    let asked = args.kv_cache.max_tokens.map(|max_tokens| max_tokens.div_ceil(block_size));
    // More than a full batch of the longest contexts would never be used.
    let useful = args.max_batch_size * spec.max_seq_len.div_ceil(block_size);
    let block_bytes = block_bytes(args, spec, kv.dtype());
    match kv {
        KvRoom::Host => Ok(asked.unwrap_or_else(|| {
            let n_bytes = KV_BYTES_MAX.min(free_memory() / KV_FREE_MEMORY_DIVISOR);
            (n_bytes / block_bytes).clamp(1, useful)
        })),
        KvRoom::Gpu { n_bytes, .. } => {
            // One more stands in for the sequences that a recorded step has too many of.
            let fit = (n_bytes / block_bytes).saturating_sub(1);
            if fit == 0 {
                let words = "the GPU has no memory left for the KV cache; give more with \
                             free_gpu_memory_fraction, or set a smaller max_num_tokens, \
                             encoder_max_num_tokens or embedding cache";
                return Err(Error::new(ErrorKind::Unavailable, words));
            }
            Ok(asked.unwrap_or(useful).min(fit))
        }
    }
}

/// Bytes of one KV block.
pub(crate) fn block_bytes(args: &EngineArgs, spec: &ModelSpec, dtype: DType) -> usize {
    let layout = KvLayout {
        block_size: args.kv_cache.tokens_per_block,
        n_layers: spec.kv.n_layers,
        n_kv_heads: spec.kv.n_kv_heads,
        head_dim: spec.kv.head_dim,
        dtype,
    };
    layout.block_bytes()
}

/// Bytes that programs can still take.
pub(crate) fn free_memory() -> usize {
    let known = std::fs::read_to_string("/proc/meminfo").ok();
    known.as_deref().and_then(available).unwrap_or(FREE_MEMORY_UNKNOWN)
}

fn available(meminfo: &str) -> Option<usize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: usize = line.split_whitespace().next()?.parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use models::KvShape;

    #[test]
    fn a_gpus_blocks_are_those_that_fit_and_no_more_than_asked_for() {
        let kv = KvShape { n_layers: 2, n_kv_heads: 1, head_dim: 64 };
        let spec = ModelSpec {
            architecture: "",
            vocab_size: 10,
            hidden_size: 64,
            n_heads: 1,
            kv,
            max_seq_len: 3200,
            placeholders: Vec::new(),
            eos_token_ids: Vec::new(),
        };
        let mut args = EngineArgs { max_batch_size: 2, ..EngineArgs::default() };
        let block = block_bytes(&args, &spec, DType::Bf16);
        assert_eq!(block, 2 * 2 * 32 * 64 * 2);
        let room = |n_bytes| KvRoom::Gpu { n_bytes, dtype: DType::Bf16 };
        let check = |args: &EngineArgs, n_bytes, expected: Option<usize>| {
            assert_eq!(n_blocks(args, &spec, room(n_bytes)).ok(), expected, "{n_bytes}");
        };
        check(&args, 101 * block, Some(100));
        check(&args, 1000 * block, Some(200));
        check(&args, 2 * block, Some(1));
        check(&args, 2 * block - 1, None);
        args.kv_cache.max_tokens = Some(33);
        check(&args, 1000 * block, Some(2));
        check(&args, 2 * block, Some(1));
        let error = n_blocks(&args, &spec, room(0)).unwrap_err();
        assert!(error.message.contains("free_gpu_memory_fraction"), "{error}");
    }

    #[test]
    fn free_memory_is_read_in_bytes() {
        let meminfo = "MemTotal:  100 kB\nMemAvailable:     2048 kB\nSwap: 0 kB\n";
        assert_eq!(available(meminfo), Some(2 << 20));
        assert_eq!(available("MemTotal: 1 kB\n"), None);
        assert_eq!(available("MemAvailable: lots\n"), None);
    }
}
