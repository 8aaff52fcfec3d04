//! From the configuration to the sizes of an engine.

use config::EngineArgs;
use config::worker::WorkerConfig;
use engine::{EngineConfig, SchedulerConfig};
use models::ModelSpec;
use tensor::{DType, KvLayout};
use types::Result;

/// A shorter beginning of a prompt waits for the rows behind it: a step of a few rows takes nearly
/// as long as one of these.
const MIN_PIECE_TOKENS: usize = 64;

/// Largest KV pool that is taken without being asked for.
const KV_BYTES_MAX: usize = 4 << 30;

/// Part of the free memory that the KV pool takes at most without being asked for.
const KV_FREE_MEMORY_DIVISOR: usize = 4;

/// Free memory to assume where the system does not say.
const FREE_MEMORY_UNKNOWN: usize = 2 << 30;

/// The sizes of an engine for a model. Errors: impossible ones.
pub(crate) fn engine_config(config: &WorkerConfig, spec: &ModelSpec) -> Result<EngineConfig> {
    let args = &config.engine;
    let max_seq_len = args.max_seq_len.map_or(spec.max_seq_len, |max| max.min(spec.max_seq_len));
    // Without chunks a prompt must fit into one step.
    let max_num_tokens = match args.enable_chunked_prefill {
        true => args.max_num_tokens,
        false => args.max_num_tokens.max(max_seq_len),
    };
    let scheduler = SchedulerConfig {
        block_size: args.kv_cache.tokens_per_block,
        n_blocks: n_blocks(args, spec),
        max_batch_size: args.max_batch_size,
        max_num_tokens,
        min_piece_tokens: MIN_PIECE_TOKENS,
        max_seq_len,
        max_queue_len: config.queue_len_max,
        reuse_blocks: args.kv_cache.enable_block_reuse,
        encoder_max_num_tokens: args.encoder_max_num_tokens,
        encoder_max_batch_size: args.encoder_max_batch_size,
    };
    scheduler.validate()?;
    Ok(EngineConfig {
        scheduler,
        embedding_bytes: config.embedding_cache_bytes,
        eos_token_ids: spec.eos_token_ids.clone(),
        kv_dtype: DType::F32,
    })
}

fn n_blocks(args: &EngineArgs, spec: &ModelSpec) -> usize {
    let block_size = args.kv_cache.tokens_per_block;
    if let Some(max_tokens) = args.kv_cache.max_tokens {
        return max_tokens.div_ceil(block_size);
    }
    let n_bytes = KV_BYTES_MAX.min(free_memory() / KV_FREE_MEMORY_DIVISOR);
    // More than a full batch of the longest contexts would never be used.
    let useful = args.max_batch_size * spec.max_seq_len.div_ceil(block_size);
    (n_bytes / block_bytes(args, spec)).clamp(1, useful)
}

/// Bytes of one KV block.
pub(crate) fn block_bytes(args: &EngineArgs, spec: &ModelSpec) -> usize {
    let layout = KvLayout {
        block_size: args.kv_cache.tokens_per_block,
        n_layers: spec.kv.n_layers,
        n_kv_heads: spec.kv.n_kv_heads,
        head_dim: spec.kv.head_dim,
        dtype: DType::F32,
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

    #[test]
    fn free_memory_is_read_in_bytes() {
        let meminfo = "MemTotal:  100 kB\nMemAvailable:     2048 kB\nSwap: 0 kB\n";
        assert_eq!(available(meminfo), Some(2 << 20));
        assert_eq!(available("MemTotal: 1 kB\n"), None);
        assert_eq!(available("MemAvailable: lots\n"), None);
    }
}
