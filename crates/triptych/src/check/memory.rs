//! Whether weights, KV pool and embedding rows fit into the memory that is free.

use super::finding::Finding;

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

/// In the largest unit of which there is at least one.
fn shown(n_bytes: usize) -> String {
    let size = n_bytes as f64;
    match n_bytes {
        0..0x10_0000 => format!("{:.0} KiB", size / 1024.0),
        0x10_0000..0x4000_0000 => format!("{:.0} MiB", size / (1 << 20) as f64),
        _ => format!("{:.1} GiB", size / (1 << 30) as f64),
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
    fn sizes_are_shown_in_their_unit() {
        let sizes = [10 << 10, 5 << 20, 3 << 29].map(shown);
        assert_eq!(sizes, ["10 KiB", "5 MiB", "1.5 GiB"]);
    }
}
