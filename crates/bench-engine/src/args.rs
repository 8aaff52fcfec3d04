//! What users write after `triptych bench engine` and `triptych bench ops`.

use config::worker::{ComputeType, DeviceChoice, LoadFormat, parse_device};
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// What to measure.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// Time the engine's steps beside what this device's memory and arithmetic allow.
    Engine(EngineArgs),
    /// Time single operations at the shapes of a model.
    Ops(OpsArgs),
}

/// The model and the device.
#[derive(Debug, Clone, clap::Args)]
pub struct TargetArgs {
    /// A model folder, or its config.json.
    #[arg(long, value_name = "FOLDER|FILE")]
    pub model_path: PathBuf,
    /// Where weights come from; `dummy` makes up random ones from config.json alone.
    #[arg(long, value_enum, default_value_t = LoadFormat::Auto)]
    pub load_format: LoadFormat,
    /// `cpu`, `cuda`, `cuda:N`, or `auto`: the first GPU, else the processor.
    #[arg(long, value_parser = parse_device, default_value = "auto")]
    pub device: DeviceChoice,
    /// What a GPU computes in; `auto` is what config.json says. The processor computes in f32.
    #[arg(long, value_enum, default_value_t = ComputeType::Auto)]
    pub dtype: ComputeType,
    /// Threads that compute on the processor [default: one for each core].
    #[arg(long, value_name = "COUNT")]
    pub threads: Option<NonZeroUsize>,
    /// Let no result depend on what is computed beside it.
    #[arg(long)]
    pub deterministic: bool,
}

/// `triptych bench engine`.
#[derive(Debug, Clone, clap::Args)]
pub struct EngineArgs {
    /// The model and the device.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Groups (`decode`, `prefill`, `image`, `images`) or rows (`decode-8`, `decode-64x4096`,
    /// `prefill-16x2048`, `image-336`, `images-64x336`), separated by commas [default: all].
    #[arg(long, value_delimiter = ',', value_name = "GROUP|ROW")]
    pub rows: Vec<String>,
    /// Timed runs of each row.
    #[arg(long, default_value_t = NonZeroUsize::new(5).unwrap_or(NonZeroUsize::MIN))]
    pub runs: NonZeroUsize,
    /// Most token rows of a step.
    #[arg(long, default_value_t = 16384)]
    pub max_num_tokens: usize,
    /// Most sequences of a step.
    #[arg(long, default_value_t = 256)]
    pub max_batch_size: usize,
    /// Also write everything as JSON to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Also list every kernel of one step of each kind.
    #[arg(long)]
    pub trace: bool,
}

/// `triptych bench ops`.
#[derive(Debug, Clone, clap::Args)]
pub struct OpsArgs {
    /// The model and the device.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Only operations whose name contains one of these, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "TEXT")]
    pub filter: Vec<String>,
    /// Also write everything as JSON to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}
