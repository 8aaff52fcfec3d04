//! Whether the model can be served, and whether it fits into memory.

use super::finding::Finding;
use super::memory::{Needed, check_memory};
use crate::model::load_format;
use crate::sizes::{block_bytes, engine_config, free_memory};
use crate::workers::sizes_of_role;
use config::{EngineKind, LoadFormat, Role, WorkerConfig};
use models::Description;
use std::path::Path;

/// A line for the model's folder, and one for the memory of its workers.
pub(super) fn check(worker: &WorkerConfig, engine: &EngineKind, roles: &[Role]) -> Vec<Finding> {
    let folder = worker.model_folder.display();
    let description = match models::describe(&worker.model_folder, load_format(worker)) {
        Ok(description) => description,
        Err(error) => {
            let remedy = "give --model-path a folder as Hugging Face code saves it";
            return vec![Finding::fail("model", format!("{folder}: {}", error.message), remedy)];
        }
    };
    let spec = &description.spec;
    let detail = format!(
        "{folder} is a {}, served as {}, with a context of {} tokens",
        spec.architecture, worker.served_model_name, spec.max_seq_len
    );
    vec![Finding::ok("model", detail), memory(worker, engine, roles, &description)]
}

fn memory(
    worker: &WorkerConfig,
    engine: &EngineKind,
    roles: &[Role],
    description: &Description,
) -> Finding {
    let sizes = match engine_config(worker, &description.spec) {
        Ok(sizes) => sizes,
        Err(error) => return Finding::fail("engine", error.message, "see docs/options.md"),
    };
    let has_weights = *engine == EngineKind::Native && worker.load_format == LoadFormat::Auto;
    let weights = if has_weights { weight_bytes(&worker.model_folder) } else { 0 };
    let kv = roles.iter().map(|&role| {
        let sizes = sizes_of_role(sizes.clone(), role);
        sizes.scheduler.n_blocks * block_bytes(&worker.engine, &description.spec)
    });
    let needed =
        Needed { weights, kv: kv.sum(), embeddings: roles.len() * worker.embedding_cache_bytes };
    check_memory(&needed, free_memory())
}

/// Bytes of all files with weights in a folder.
fn weight_bytes(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let weights = entries.filter(|entry| {
        entry.path().extension().is_some_and(|extension| extension == "safetensors")
    });
    // Through links, as the hub's cache has them.
    weights
        .filter_map(|entry| std::fs::metadata(entry.path()).ok())
        .map(|found| found.len() as usize)
        .sum()
}
