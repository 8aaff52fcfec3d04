//! The table of engine keys: one entry is one option, in YAML, in JSON, as a flag and in the docs.
//!
//! A key of TensorRT-LLM's that this build can honour with one value only is listed with that
//! value; a key that it cannot honour at all is not listed, and so is refused by name.

use crate::engine_args::EngineArgs;
use crate::slot::Slot;
use serde_json::json;

/// One option.
pub(crate) struct Key {
    /// Where it stands in the YAML, groups separated by dots.
    pub(crate) path: &'static str,
    /// Its flag, for the keys that have one.
    pub(crate) flag: Option<Flag>,
    /// What it means, in a sentence.
    pub(crate) help: &'static str,
    /// The value it writes.
    pub(crate) slot: for<'a> fn(&'a mut EngineArgs) -> Slot<'a>,
}

/// The names of an option on the command line and in the environment.
#[derive(Clone, Copy)]
pub(crate) struct Flag {
    pub(crate) long: &'static str,
    pub(crate) env: &'static str,
}

const ONE_DEVICE: &str = "an engine computes on one device";

/// All keys, in the order of the documentation.
pub(crate) const KEYS: &[Key] = &[
    Key {
        path: "max_batch_size",
        flag: Some(Flag { long: "max-batch-size", env: "TRIPTYCH_MAX_BATCH_SIZE" }),
        help: "Most sequences in one step.",
        slot: |args| Slot::Count(&mut args.max_batch_size, 1..=4096),
    },
    Key {
        path: "max_num_tokens",
        flag: Some(Flag { long: "max-num-tokens", env: "TRIPTYCH_MAX_NUM_TOKENS" }),
        help: "Most prompt and answer tokens in one step.",
        slot: |args| Slot::Count(&mut args.max_num_tokens, 1..=1 << 20),
    },
    Key {
        path: "max_seq_len",
        flag: Some(Flag { long: "max-seq-len", env: "TRIPTYCH_MAX_SEQ_LEN" }),
        help: "Longest prompt and answer together, in tokens.",
        slot: |args| Slot::OptionalCount(&mut args.max_seq_len, 2..=1 << 24, "the model's"),
    },
    Key {
        path: "tensor_parallel_size",
        flag: Some(Flag { long: "tensor-parallel-size", env: "TRIPTYCH_TENSOR_PARALLEL_SIZE" }),
        help: "Devices that share each layer.",
        slot: |_| Slot::Only(json!(1), ONE_DEVICE),
    },
    Key {
        path: "moe_expert_parallel_size",
        flag: None,
        help: "Devices that share the experts.",
        slot: |_| Slot::Only(json!(1), ONE_DEVICE),
    },
    Key {
        path: "enable_chunked_prefill",
        flag: None,
        help: "Whether a prompt over `max_num_tokens` may be spread over several steps; such a \
               prompt is refused otherwise.",
        slot: |args| Slot::Switch(&mut args.enable_chunked_prefill),
    },
    Key {
        path: "disable_overlap_scheduler",
        flag: None,
        help: "Do not schedule a step while the one before it runs; the CPU engine never does.",
        slot: |args| Slot::Switch(&mut args.disable_overlap_scheduler),
    },
    Key {
        path: "deterministic",
        flag: Some(Flag { long: "deterministic", env: "TRIPTYCH_DETERMINISTIC" }),
        help: "Make every result on a GPU independent of what else is computed with it, at some \
               cost; on the CPU it always is.",
        slot: |args| Slot::Switch(&mut args.deterministic),
    },
    Key {
        path: "encoder_max_batch_size",
        flag: None,
        help: "Most pictures in one run of the tower.",
        slot: |args| Slot::Count(&mut args.encoder_max_batch_size, 1..=4096),
    },
    Key {
        path: "encoder_max_num_tokens",
        flag: None,
        help: "Most patches, before merging, in one run of the tower; a larger picture runs alone.",
        slot: |args| Slot::Count(&mut args.encoder_max_num_tokens, 1..=1 << 24),
    },
    Key {
        path: "kv_cache_config.free_gpu_memory_fraction",
        flag: Some(Flag {
            long: "free-gpu-memory-fraction",
            env: "TRIPTYCH_FREE_GPU_MEMORY_FRACTION",
        }),
        help: "Share of the GPU memory that weights, working memory and embedding rows leave, \
               which the KV cache may take; says nothing on the CPU.",
        slot: |args| Slot::Fraction(&mut args.kv_cache.free_gpu_memory_fraction),
    },
    Key {
        path: "kv_cache_config.enable_block_reuse",
        flag: None,
        help: "Keep the blocks of finished prompts and use them for prompts that begin alike.",
        slot: |args| Slot::Switch(&mut args.kv_cache.enable_block_reuse),
    },
    Key {
        path: "kv_cache_config.tokens_per_block",
        flag: Some(Flag { long: "kv-block-size", env: "TRIPTYCH_KV_BLOCK_SIZE" }),
        help: "Tokens of one KV block.",
        slot: |args| Slot::Count(&mut args.kv_cache.tokens_per_block, 1..=512),
    },
    Key {
        path: "kv_cache_config.dtype",
        flag: None,
        help: "Type of the cached keys and values.",
        slot: |args| Slot::Word(&mut args.kv_cache.dtype),
    },
    Key {
        path: "kv_cache_config.host_cache_size",
        flag: None,
        help: "Bytes of a second cache in host memory.",
        slot: |_| Slot::Only(json!(0), "there is one cache, beside the model"),
    },
    Key {
        path: "kv_cache_config.max_tokens",
        flag: None,
        help: "Size of the KV cache in tokens; on a GPU `free_gpu_memory_fraction` bounds it too.",
        slot: |args| {
            let absent =
                "the lesser of 4 GiB and a quarter of free memory; on a GPU, as many as fit";
            Slot::OptionalCount(&mut args.kv_cache.max_tokens, 1..=1 << 32, absent)
        },
    },
    Key {
        path: "cache_transceiver_config.backend",
        flag: None,
        help: "What carries embeddings and KV blocks between processes; `--transport` wins. \
               `DEFAULT` is UCX where it is installed, and TCP.",
        slot: |args| Slot::Word(&mut args.transfer_backend),
    },
    Key {
        path: "cache_transceiver_config.max_tokens_in_buffer",
        flag: None,
        help: "Accepted and without effect: blocks go from pool to pool, through no buffer.",
        slot: |_| Slot::Moot(1..=1 << 32, "the whole KV cache"),
    },
    Key {
        path: "cache_transceiver_config.kv_transfer_timeout_ms",
        flag: None,
        help: "Longest time that a transfer between roles may take, of a picture's rows or of a \
               prompt's KV blocks, in milliseconds; beside it a transfer has a second for each \
               20 MB. Where the two roles differ, the shorter time counts.",
        slot: |args| Slot::Count(&mut args.kv_transfer_timeout_ms, 1..=3_600_000),
    },
    Key {
        path: "cuda_graph_config.enabled",
        flag: None,
        help: "Record decode steps as CUDA graphs; says nothing on the CPU.",
        slot: |args| Slot::Switch(&mut args.cuda_graphs.enabled),
    },
    Key {
        path: "cuda_graph_config.batch_sizes",
        flag: None,
        help: "The numbers of sequences for which there are CUDA graphs; a step takes the next \
               larger one.",
        slot: |args| {
            let absent = "the engine's choice, up to `max_batch_size`";
            Slot::OptionalCounts(&mut args.cuda_graphs.batch_sizes, 1..=4096, absent)
        },
    },
];

/// The key at `path`.
pub(crate) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// Whether `path` is a group of keys.
pub(crate) fn is_group(path: &str) -> bool {
    KEYS.iter().any(|key| key.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

/// The names that may stand directly in `group` (the empty one is the whole file).
pub(crate) fn names_in(group: &str) -> Vec<&'static str> {
    let inside = |key: &Key| match group {
        "" => key.path.split('.').next(),
        _ => key.path.strip_prefix(group)?.strip_prefix('.')?.split('.').next(),
    };
    let mut names: Vec<_> = KEYS.iter().filter_map(inside).collect();
    names.dedup();
    names
}
