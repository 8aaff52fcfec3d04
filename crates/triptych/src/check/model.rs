//! Whether the model can be served, and whether it fits into memory.

use super::finding::Finding;
use super::gpu::{self, FoundGpu};
use super::memory::{Needed, check_gpu_memory, check_memory};
use crate::gpu_moves::check_gpu;
use crate::model::{Crew, load_format};
use crate::sizes::{KvRoom, block_bytes, engine_config, free_memory};
use crate::workers::sizes_of_role;
use config::{EngineKind, LoadFormat, Role, WorkerConfig};
use models::Description;
use std::path::Path;

/// A line for the model's folder, and one for the memory of its workers.
pub(super) fn check(worker: &WorkerConfig, engine: &EngineKind, crew: &Crew) -> Vec<Finding> {
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
    let mut findings = vec![Finding::ok("model", detail)];
    let (of_gpu, gpu) = match engine {
        EngineKind::Native => gpu::check(worker, description.dtype),
        EngineKind::Mock(_) => (Vec::new(), None),
    };
    findings.extend(of_gpu);
    if let Some(Err(error)) = gpu.as_ref().map(|_| check_gpu(crew)) {
        findings.push(Finding::fail("roles", error.message, "see docs/deploy.md"));
    }
    findings.push(match gpu {
        Some(gpu) => gpu_memory(worker, &crew.roles, &description, &gpu),
        None => memory(worker, engine, &crew.roles, &description),
    });
    findings
}

/// Weights take another size on a GPU that computes in another type than theirs.
fn gpu_memory(
    worker: &WorkerConfig,
    roles: &[Role],
    description: &Description,
    gpu: &FoundGpu,
) -> Finding {
    let of_files = match worker.load_format {
        LoadFormat::Auto => weight_bytes(&worker.model_folder),
        LoadFormat::Dummy => 0,
    };
    let weights = of_files / description.dtype.n_bytes() * gpu.compute.n_bytes();
    let embeddings = roles.len() * worker.embedding_cache_bytes;
    check_gpu_memory(&Needed { weights, kv: 0, embeddings }, gpu.n_bytes_free)
}

fn memory(
    worker: &WorkerConfig,
    engine: &EngineKind,
    roles: &[Role],
    description: &Description,
) -> Finding {
    let sizes = match engine_config(worker, &description.spec, KvRoom::Host) {
        Ok(sizes) => sizes,
        Err(error) => return Finding::fail("engine", error.message, "see docs/options.md"),
    };
    let has_weights = *engine == EngineKind::Native && worker.load_format == LoadFormat::Auto;
    let weights = if has_weights { weight_bytes(&worker.model_folder) } else { 0 };
    let kv = roles.iter().map(|&role| {
        let sizes = sizes_of_role(sizes.clone(), role);
        sizes.scheduler.n_blocks * block_bytes(&worker.engine, &description.spec, sizes.kv_dtype)
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
