//! Whether weights, KV pool and embedding rows fit into the memory that is free.

use super::finding::Finding;
use crate::gpu_memory::shown;

/// Part of the free memory over which a process would leave little for anything else, in percent.
const FULL_PERCENT: usize = 90;

/// What a process takes, in bytes.
pub(super) struct Needed {
    pub(super) weights: usize,
    pub(super) kv: usize,
    pub(super) embeddings: usize,
}

/// Compares with `free` bytes.
pub(super) fn check_memory(needed: &Needed, free: usize) -> Finding {
    let sum = needed.weights + needed.kv + needed.embeddings;
    let detail = format!(
        "{} of weights, {} of KV blocks and {} of embedding rows need {} of {} free",
        shown(needed.weights),
        shown(needed.kv),
        shown(needed.embeddings),
        shown(sum),
        shown(free)
    );
    let remedy = "set a smaller kv_cache_config.max_tokens or \
                  --multimodal-embedding-cache-capacity-gb, or free memory";
    if sum > free {
        Finding::fail("memory", detail, remedy)
    } else if sum > free / 100 * FULL_PERCENT {
        Finding::warn("memory", detail, remedy)
    } else {
        Finding::ok("memory", detail)
    }
}

/// The same on a GPU, where KV blocks get most of what weights and embedding rows leave.
pub(super) fn check_gpu_memory(needed: &Needed, free: usize) -> Finding {
    let sum = needed.weights + needed.embeddings;
    let detail = format!(
        "{} of weights and {} of embedding rows leave {} of {} free for working memory and KV \
         blocks",
        shown(needed.weights),
        shown(needed.embeddings),
        shown(free.saturating_sub(sum)),
        shown(free)
    );
    let remedy = "free memory of the GPU, take a larger one, or set a smaller \
                  --multimodal-embedding-cache-capacity-gb";
    if sum > free {
        Finding::fail("GPU memory", detail, remedy)
    } else if sum > free / 100 * FULL_PERCENT {
        Finding::warn("GPU memory", detail, remedy)
    } else {
        Finding::ok("GPU memory", detail)
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn memory_is_enough_or_tight_or_too_little() {
        let check = |kv: usize, expected| {
            let needed = Needed { weights: 40 << 20, kv, embeddings: 10 << 20 };
            assert_eq!(check_memory(&needed, 100 << 20).level, expected, "{kv}");
        };
        check(0, Level::Ok);
        check(39 << 20, Level::Ok);
        check(45 << 20, Level::Warn);
        check(51 << 20, Level::Fail);
    }

    #[test]
    fn a_gpu_is_full_with_weights_and_rows_alone() {
        let check = |weights: usize, expected, words: &str| {
            let needed = Needed { weights, kv: 0, embeddings: 10 << 20 };
            let finding = check_gpu_memory(&needed, 100 << 20);
            assert_eq!(finding.level, expected, "{weights}");
            assert!(finding.to_string().contains(words), "{finding}");
        };
        check(50 << 20, Level::Ok, "leave 40 MiB of 100 MiB");
        check(85 << 20, Level::Warn, "leave 5 MiB");
        check(95 << 20, Level::Fail, "leave 0 KiB");
    }
}
