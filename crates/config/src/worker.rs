//! What a worker is told: its model, its device, and what it may read and hold.

use crate::engine_args::{EngineArgs, EngineFlags};
use crate::media::{MediaConfig, MediaFlags};
use crate::model_path;
use crate::process::ProcessConfig;
use crate::world::World;
use clap::ValueEnum;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;
use types::{Error, Result};

/// A chat template is a page or two; whatever is larger is another file given by mistake.
const TEMPLATE_BYTES_MAX: u64 = 1 << 20;
/// In the user's cache folder.
const GEMM_CHOICES: &str = "triptych/gemm-choices.json";

/// What users write about a worker.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Model")]
pub struct WorkerFlags {
    /// A model folder as Hugging Face code saves it, or a hub id found in the local cache.
    // Required, but `triptych check` takes these flags for a frontend as well.
    #[arg(long, env = "TRIPTYCH_MODEL_PATH", value_name = "FOLDER|ID", required = true)]
    pub model_path: Option<String>,
    /// The name clients ask for [default: the folder's name or the hub id].
    #[arg(long, env = "TRIPTYCH_SERVED_MODEL_NAME", value_name = "NAME")]
    pub served_model_name: Option<String>,
    /// What requests may carry.
    #[arg(long, env = "TRIPTYCH_MODALITY", value_enum, default_value_t = Modality::Multimodal)]
    pub modality: Modality,
    /// Where weights come from; `dummy` makes up random ones from config.json alone.
    #[arg(long, env = "TRIPTYCH_LOAD_FORMAT", value_enum, default_value_t = LoadFormat::Auto)]
    pub load_format: LoadFormat,
    /// A Jinja file to use instead of the model's chat template.
    #[arg(long, env = "TRIPTYCH_CUSTOM_JINJA_TEMPLATE", value_name = "FILE")]
    pub custom_jinja_template: Option<PathBuf>,
    /// What to compute on: `cpu`, `cuda` (the first visible GPU), `cuda:N`, or `auto`, which is a
    /// GPU where a driver, a GPU and kernels for it are there, else the CPU.
    #[arg(
        long,
        env = "TRIPTYCH_DEVICE",
        value_name = "DEVICE",
        value_parser = parse_device,
        default_value = "auto"
    )]
    pub device: DeviceChoice,
    /// What to compute in; `auto` is what config.json says on a GPU, and f32 on the CPU, which
    /// knows no other.
    #[arg(long, env = "TRIPTYCH_DTYPE", value_enum, default_value_t = ComputeType::Auto)]
    pub dtype: ComputeType,
    /// Threads that compute, on the CPU [default: one for each core].
    #[arg(long, env = "TRIPTYCH_THREADS", value_name = "COUNT")]
    pub threads: Option<NonZeroUsize>,

    /// The folder whose media files requests may name [default: none, no local file is read].
    #[arg(
        long,
        env = "TRIPTYCH_ALLOWED_LOCAL_MEDIA_PATH",
        value_name = "FOLDER",
        help_heading = "Media"
    )]
    pub allowed_local_media_path: Option<PathBuf>,
    /// Media over HTTP(S).
    #[command(flatten)]
    pub media: MediaFlags,
    /// Memory for the embeddings of media on their way from the tower to the prompt; nothing is
    /// kept for later requests.
    #[arg(
        long,
        env = "TRIPTYCH_MULTIMODAL_EMBEDDING_CACHE_CAPACITY_GB",
        value_name = "GB",
        default_value_t = 0.25,
        help_heading = "Media"
    )]
    pub multimodal_embedding_cache_capacity_gb: f64,

    /// Engine YAML with TensorRT-LLM's keys.
    #[arg(long, env = "TRIPTYCH_EXTRA_ENGINE_ARGS", value_name = "FILE", help_heading = "Engine")]
    pub extra_engine_args: Option<PathBuf>,
    /// Engine keys as JSON, over those of the YAML.
    #[arg(
        long,
        env = "TRIPTYCH_OVERRIDE_ENGINE_ARGS",
        value_name = "JSON",
        help_heading = "Engine"
    )]
    pub override_engine_args: Option<String>,
    /// Where the algorithms of matrix products on GPUs are kept, for all roles that share one
    /// [default: triptych/gemm-choices.json in the user's cache folder].
    #[arg(long, env = "TRIPTYCH_GEMM_CHOICES", value_name = "FILE", help_heading = "Engine")]
    pub gemm_choices: Option<PathBuf>,
    /// Most requests that wait for a place in the batch; more are refused with 429.
    #[arg(
        long,
        env = "TRIPTYCH_MAX_QUEUE_LENGTH",
        value_name = "COUNT",
        default_value_t = 1024,
        help_heading = "Engine"
    )]
    pub max_queue_length: usize,
    /// Engine keys that have flags.
    #[command(flatten)]
    pub engine: EngineFlags,
}

/// What a worker is told, resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerConfig {
    /// The model folder.
    pub model_folder: PathBuf,
    /// The name clients ask for.
    pub served_model_name: String,
    /// What requests may carry.
    pub modality: Modality,
    /// Where weights come from.
    pub load_format: LoadFormat,
    /// A chat template that replaces the folder's.
    pub template_override: Option<String>,
    /// What to compute on.
    pub device: DeviceChoice,
    /// What to compute in.
    pub dtype: ComputeType,
    /// Threads that compute on the CPU; `None` is one for each core.
    pub n_threads: Option<NonZeroUsize>,
    /// The folder whose media files may be read, symlinks resolved; `None` allows none.
    pub allowed_local_media_path: Option<PathBuf>,
    /// From where media may be fetched.
    pub media: MediaConfig,
    /// Largest encoded medium, in bytes.
    pub media_file_bytes_max: u64,
    /// Most bytes of encoded media held at once.
    pub media_bytes_held_max: u64,
    /// Memory for the embeddings of media on their way from the tower to the prompt, in bytes.
    pub embedding_cache_bytes: usize,
    /// Most requests that wait for a place in the batch.
    pub queue_len_max: usize,
    /// Longest time that a transfer from another worker may take without any progress.
    pub kv_transfer_timeout: Duration,
    /// Where the algorithms of matrix products on GPUs are kept; `None` keeps them nowhere.
    pub gemm_choices: Option<PathBuf>,
    /// The engine's shape.
    pub engine: EngineArgs,
}

/// What requests may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Modality {
    /// Text only; media are refused.
    Text,
    /// Text and whatever media the model reads.
    Multimodal,
}

/// Where weights come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LoadFormat {
    /// The model folder.
    Auto,
    /// Random numbers in the shapes that config.json implies.
    Dummy,
}

/// What to compute on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU if one can be used, else the processor.
    Auto,
    /// The processor.
    Cpu,
    /// The GPU of this number among those visible, from 0.
    Cuda(usize),
}

/// What flows between operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ComputeType {
    /// What the model's configuration says on a GPU; f32 on the processor.
    Auto,
    /// 32 bits.
    #[value(alias = "float32")]
    F32,
    /// 16 bits with f32's range.
    #[value(alias = "bfloat16")]
    Bf16,
    /// 16 bits with more digits.
    #[value(alias = "float16", alias = "half")]
    F16,
}

impl WorkerFlags {
    /// Reads the files that the flags name and checks every value.
    pub fn resolve(self, process: &ProcessConfig, world: &World) -> Result<WorkerConfig> {
        let Some(model) = &self.model_path else {
            return Err(Error::invalid("--model-path: expected a model folder or a hub id"));
        };
        let model = model_path::find(model, world.hub_cache.as_deref())?;
        let engine = self.engine_args()?;
        let cached = || Some(world.cache.as_ref()?.join(GEMM_CHOICES));
        Ok(WorkerConfig {
            model_folder: model.folder,
            served_model_name: served_name(self.served_model_name, model.name)?,
            modality: self.modality,
            load_format: self.load_format,
            template_override: self.custom_jinja_template.as_deref().map(template).transpose()?,
            device: compatible(self.device, self.dtype)?,
            dtype: self.dtype,
            n_threads: self.threads,
            allowed_local_media_path: self
                .allowed_local_media_path
                .map(media_folder)
                .transpose()?,
            media: self.media.resolve()?,
            media_file_bytes_max: process.media_file_bytes_max,
            media_bytes_held_max: process.media_bytes_held_max,
            embedding_cache_bytes: gigabytes(self.multimodal_embedding_cache_capacity_gb)?,
            queue_len_max: self.max_queue_length,
            kv_transfer_timeout: Duration::from_millis(engine.kv_transfer_timeout_ms as u64),
            gemm_choices: self.gemm_choices.or_else(cached),
            engine,
        })
    }

    fn engine_args(&self) -> Result<EngineArgs> {
        let mut args = EngineArgs::default();
        if let Some(path) = &self.extra_engine_args {
            args.apply_yaml_file(path)?;
        }
        if let Some(text) = &self.override_engine_args {
            args.apply_json(text)?;
        }
        self.engine.apply(&mut args)?;
        args.check()?;
        Ok(args)
    }
}

/// The device that a word names. Errors: what was expected.
pub fn parse_device(word: &str) -> std::result::Result<DeviceChoice, String> {
    let number = |digits: &str| digits.parse().ok().map(DeviceChoice::Cuda);
    let device = match word {
        "auto" => Some(DeviceChoice::Auto),
        "cpu" => Some(DeviceChoice::Cpu),
        "cuda" => Some(DeviceChoice::Cuda(0)),
        other => other.strip_prefix("cuda:").and_then(number),
    };
    device.ok_or_else(|| "expected auto, cpu, cuda, or cuda:N with N from 0".to_owned())
}

/// The device, if it is known to compute in `dtype`.
fn compatible(device: DeviceChoice, dtype: ComputeType) -> Result<DeviceChoice> {
    match (device, dtype) {
        (DeviceChoice::Cpu, ComputeType::Bf16 | ComputeType::F16) => Err(Error::invalid(
            "--dtype: the CPU computes in f32 only; expected auto or f32, or --device cuda",
        )),
        (DeviceChoice::Auto | DeviceChoice::Cpu | DeviceChoice::Cuda(_), _) => Ok(device),
    }
}

fn served_name(given: Option<String>, found: String) -> Result<String> {
    let name = given.unwrap_or(found);
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err(Error::invalid(
            "--served-model-name: expected a name without control characters",
        ));
    }
    Ok(name)
}

fn template(path: &Path) -> Result<String> {
    let wrong =
        |why: String| Error::invalid(format!("--custom-jinja-template {}: {why}", path.display()));
    let size = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
    if size > TEMPLATE_BYTES_MAX {
        return Err(wrong(format!("larger than {TEMPLATE_BYTES_MAX} bytes")));
    }
    std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))
}

/// Resolves symlinks once, so that the check of each file compares like with like.
fn media_folder(path: PathBuf) -> Result<PathBuf> {
    let flag = format!("--allowed-local-media-path {}", path.display());
    let folder = path.canonicalize().map_err(|error| Error::invalid(format!("{flag}: {error}")))?;
    if !folder.is_dir() {
        return Err(Error::invalid(format!("{flag}: not a folder")));
    }
    Ok(folder)
}

fn gigabytes(size: f64) -> Result<usize> {
    const GB_MAX: f64 = 1e6;
    if !(0.0..=GB_MAX).contains(&size) {
        return Err(Error::invalid(format!(
            "--multimodal-embedding-cache-capacity-gb: {size} is not accepted; expected a number \
             from 0 to {GB_MAX}"
        )));
    }
    Ok((size * (1u64 << 30) as f64) as usize)
}
