//! How an engine is shaped: batch and token budgets, KV cache. TensorRT-LLM's names and meanings.
//!
//! Values come in layers, later ones winning: defaults, the YAML of `--extra-engine-args`, the JSON
//! of `--override-engine-args`, flags. Every layer is checked on its own, so an error can name the
//! file or flag that is wrong.

use crate::engine_keys::{self, Key};
use crate::slot::{Slot, Word};
use clap::{Arg, ArgMatches, Command};
use serde_json::{Map, Value};
use std::path::Path;
use types::{Error, Result};

/// An engine YAML is a page; whatever is larger is another file given by mistake.
const YAML_BYTES_MAX: u64 = 1 << 20;

/// The engine's shape, all layers applied.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineArgs {
    /// Most sequences in one step.
    pub max_batch_size: usize,
    /// Most prompt and answer tokens in one step.
    pub max_num_tokens: usize,
    /// Longest prompt and answer together, in tokens; `None` is the model's own limit.
    pub max_seq_len: Option<usize>,
    /// Whether a prompt over the token budget may be spread over steps.
    pub enable_chunked_prefill: bool,
    /// Do not schedule a step while the one before it runs; the CPU engine never does.
    pub disable_overlap_scheduler: bool,
    /// Make every result on a GPU independent of what else is computed with it, at some cost; on
    /// the CPU it always is.
    pub deterministic: bool,
    /// Recorded steps, on a GPU.
    pub cuda_graphs: CudaGraphConfig,
    /// Most pictures in one run of the tower.
    pub encoder_max_batch_size: usize,
    /// Most patches (before merging) in one run of the tower; a larger picture runs alone.
    pub encoder_max_num_tokens: usize,
    /// The KV cache.
    pub kv_cache: KvCacheConfig,
    /// Longest time that a transfer between roles may take without any progress, in milliseconds.
    pub kv_transfer_timeout_ms: usize,
    /// What carries embeddings and KV blocks between processes, unless a flag says otherwise.
    pub transfer_backend: TransferBackend,
}

/// Decode steps that are recorded once and replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CudaGraphConfig {
    /// Whether any are.
    pub enabled: bool,
    /// For these numbers of sequences, ascending; a step takes the next larger one. `None` is the
    /// engine's own choice.
    pub batch_sizes: Option<Vec<usize>>,
}

/// The KV cache's size and sharing.
#[derive(Debug, Clone, PartialEq)]
pub struct KvCacheConfig {
    /// Share of the memory that weights, working memory and embedding rows leave, which the cache
    /// may take on a GPU.
    pub free_gpu_memory_fraction: f64,
    /// Keep the blocks of finished prompts and use them again.
    pub enable_block_reuse: bool,
    /// Tokens of one block.
    pub tokens_per_block: usize,
    /// Type of the cached keys and values.
    pub dtype: KvDType,
    /// Size of the cache in tokens; `None` is the lesser of 4 GiB and a quarter of free memory on
    /// the CPU, and all that `free_gpu_memory_fraction` gives on a GPU, which is the most there.
    pub max_tokens: Option<usize>,
}

/// Element type of the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvDType {
    /// What the device computes in.
    Auto,
}

/// What carries embeddings and KV blocks between processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransferBackend {
    /// The best that is there.
    Default,
    /// UCX, and TCP for peers without it.
    Ucx,
    /// TCP alone.
    Tcp,
}

impl Default for EngineArgs {
    fn default() -> Self {
        Self {
            max_batch_size: 64,
            max_num_tokens: 2048,
            max_seq_len: None,
            enable_chunked_prefill: true,
            disable_overlap_scheduler: false,
            deterministic: false,
            cuda_graphs: CudaGraphConfig { enabled: true, batch_sizes: None },
            encoder_max_batch_size: 16,
            encoder_max_num_tokens: 16384,
            kv_cache: KvCacheConfig {
                free_gpu_memory_fraction: 0.9,
                enable_block_reuse: true,
                tokens_per_block: 32,
                dtype: KvDType::Auto,
                max_tokens: None,
            },
            kv_transfer_timeout_ms: 60_000,
            transfer_backend: TransferBackend::Default,
        }
    }
}

impl Word for KvDType {
    fn words(&self) -> &'static [&'static str] {
        &["auto"]
    }

    fn current(&self) -> &'static str {
        match self {
            Self::Auto => "auto",
        }
    }

    fn choose(&mut self, word: &str) -> bool {
        *self = Self::Auto;
        word == "auto"
    }
}

impl Word for TransferBackend {
    fn words(&self) -> &'static [&'static str] {
        &["DEFAULT", "UCX", "TCP"]
    }

    fn current(&self) -> &'static str {
        match self {
            Self::Default => "DEFAULT",
            Self::Ucx => "UCX",
            Self::Tcp => "TCP",
        }
    }

    fn choose(&mut self, word: &str) -> bool {
        *self = match word.to_ascii_uppercase().as_str() {
            "DEFAULT" => Self::Default,
            "UCX" => Self::Ucx,
            "TCP" => Self::Tcp,
            _ => return false,
        };
        true
    }
}

impl EngineArgs {
    /// Applies the YAML file at `path`.
    pub fn apply_yaml_file(&mut self, path: &Path) -> Result<()> {
        let shown = path.display().to_string();
        let unreadable =
            |why: String| Error::invalid(format!("--extra-engine-args {shown}: {why}"));
        let size = std::fs::metadata(path).map_err(|error| unreadable(error.to_string()))?.len();
        if size > YAML_BYTES_MAX {
            return Err(unreadable(format!("larger than {YAML_BYTES_MAX} bytes")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
        self.apply_yaml(&text, &shown)
    }

    /// Applies YAML text; `origin` names it in errors.
    pub fn apply_yaml(&mut self, text: &str, origin: &str) -> Result<()> {
        if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
            return Ok(());
        }
        let tree: Value = serde_saphyr::from_str(text)
            .map_err(|error| Error::invalid(format!("{origin}: not valid YAML: {error}")))?;
        self.apply(&tree, origin)
    }

    /// Applies the JSON text of `--override-engine-args`.
    pub fn apply_json(&mut self, text: &str) -> Result<()> {
        let origin = "--override-engine-args";
        let tree: Value = serde_json::from_str(text)
            .map_err(|error| Error::invalid(format!("{origin}: not valid JSON: {error}")))?;
        self.apply(&tree, origin)
    }

    /// Checks values against each other, once all layers are applied.
    pub fn check(&self) -> Result<()> {
        if self.max_num_tokens < self.max_batch_size {
            return Err(Error::invalid(format!(
                "max_num_tokens ({}) must be at least max_batch_size ({}): every running sequence \
                 takes one token of a step",
                self.max_num_tokens, self.max_batch_size
            )));
        }
        Ok(())
    }

    fn apply(&mut self, tree: &Value, origin: &str) -> Result<()> {
        match tree {
            Value::Null => Ok(()),
            Value::Object(keys) => self.apply_group(keys, "", origin),
            other => Err(Error::invalid(format!(
                "{origin}: expected a map of keys to values, but got {}",
                kind_of(other)
            ))),
        }
    }

    fn apply_group(&mut self, keys: &Map<String, Value>, group: &str, origin: &str) -> Result<()> {
        for (name, value) in keys {
            let path = if group.is_empty() { name.clone() } else { format!("{group}.{name}") };
            if let Some(key) = engine_keys::find(&path) {
                self.apply_value(key, value, &format!("{origin}: {path}"))?;
            } else if engine_keys::is_group(&path) {
                self.apply_subgroup(value, &path, origin)?;
            } else {
                let accepted = engine_keys::names_in(group).join(", ");
                return Err(Error::invalid(format!(
                    "{origin}: {path}: unknown key; accepted here: {accepted}"
                )));
            }
        }
        Ok(())
    }

    fn apply_subgroup(&mut self, value: &Value, path: &str, origin: &str) -> Result<()> {
        match value {
            Value::Null => Ok(()),
            Value::Object(keys) => self.apply_group(keys, path, origin),
            other => Err(Error::invalid(format!(
                "{origin}: {path}: expected a map with any of {}, but got {}",
                engine_keys::names_in(path).join(", "),
                kind_of(other)
            ))),
        }
    }

    /// Stores one value; null leaves what an earlier layer said.
    fn apply_value(&mut self, key: &Key, value: &Value, origin: &str) -> Result<()> {
        if value.is_null() {
            return Ok(());
        }
        let mut slot: Slot<'_> = (key.slot)(self);
        match slot.store(value) {
            Some(()) => Ok(()),
            None => Err(Error::invalid(format!(
                "{origin}: {value} is not accepted; expected {}",
                slot.accepts()
            ))),
        }
    }
}

/// The flags that write engine keys, as given: key's index in the table, and text.
#[derive(Debug, Clone, Default)]
pub struct EngineFlags(Vec<(usize, String)>);

impl EngineFlags {
    /// Applies the flags, the last layer.
    pub fn apply(&self, args: &mut EngineArgs) -> Result<()> {
        for (idx, text) in &self.0 {
            let key = &engine_keys::KEYS[*idx];
            let value = serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.clone()));
            let flag = key.flag.map_or(key.path, |flag| flag.long);
            args.apply_value(key, &value, &format!("--{flag}"))?;
        }
        Ok(())
    }
}

impl clap::Args for EngineFlags {
    fn augment_args(command: Command) -> Command {
        engine_keys::KEYS.iter().fold(command, |command, key| match key.flag {
            Some(flag) => command.arg(flag_of(key, flag)),
            None => command,
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for EngineFlags {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<Self, clap::Error> {
        let given = |(idx, key): (usize, &Key)| {
            key.flag?;
            Some((idx, matches.get_one::<String>(key.path)?.clone()))
        };
        Ok(Self(engine_keys::KEYS.iter().enumerate().filter_map(given).collect()))
    }

    fn update_from_arg_matches(
        &mut self,
        matches: &ArgMatches,
    ) -> std::result::Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn flag_of(key: &'static Key, flag: engine_keys::Flag) -> Arg {
    let mut defaults = EngineArgs::default();
    let shown = (key.slot)(&mut defaults).show();
    let help = format!("{} [engine YAML: {}] [default: {shown}]", key.help, key.path);
    Arg::new(key.path)
        .long(flag.long)
        .env(flag.env)
        .value_name("VALUE")
        .help(help)
        .help_heading("Engine")
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}
