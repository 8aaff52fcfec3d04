//! Model architectures: a file each in `zoo/`, shared blocks in `layers/`, and the loading of
//! folders as Hugging Face code saves them.
//!
//! Must not know requests, scheduling, sockets or async.

mod card;
mod dummy;
mod files;
mod layers;
pub mod model;
mod options;
mod pixels;
pub mod processor;
mod safetensors;
pub mod step;
mod weights;
mod zoo;

use crate::card::read_card;
use crate::files::ConfigFiles;
use crate::weights::Weights;
use crate::zoo::family_of;
use std::path::Path;
use std::sync::Arc;
use tensor::{DType, Device};
use types::Result;
use types::card::ModelCard;

pub use layers::llama::with_defaults;
pub use media::Size;
pub use model::{KvShape, Model, ModelSpec, Positions};
pub use processor::{MediaPlan, PreparedMedia, Processor};
pub use step::{EmbeddingRows, Step, StepInput, StepParts};
pub use tensor::ops::SeqRows;

/// Where weights come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LoadFormat {
    /// The safetensors files of the folder.
    #[default]
    Auto,
    /// Small random numbers in the shapes that `config.json` implies.
    Dummy,
}

/// How far a model is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadProgress {
    /// Bytes read or made up.
    pub n_bytes_done: usize,
    /// Bytes of all files; `None` where weights are made up.
    pub n_bytes: Option<usize>,
}

/// All that is known of a model without its weights.
#[derive(Clone)]
pub struct Description {
    /// Shapes, limits and special tokens.
    pub spec: ModelSpec,
    /// Media to tower input.
    pub processor: Arc<dyn Processor>,
    /// The files a frontend needs, and the model's identity.
    pub card: ModelCard,
    /// What the configuration says that the model computes in.
    pub dtype: DType,
}

/// Reads a model folder without its weights.
///
/// Errors: a file is missing or malformed, or the architecture is not in the zoo.
pub fn describe(folder: &Path, load_format: LoadFormat) -> Result<Description> {
    let files = ConfigFiles::read(folder, load_format)?;
    let family = family_of(&files)?;
    let spec = (family.spec)(&files)?;
    let card = read_card(folder, load_format, (family, &files), &spec)?;
    let dtype = files.stated_dtype();
    Ok(Description { spec, processor: (family.processor)(&files)?, card, dtype })
}

/// Loads a model with its weights.
///
/// Errors: as [`describe`]; a tensor is missing, of another shape, or not used by the architecture.
pub fn load(folder: &Path, load_format: LoadFormat, device: &Device) -> Result<Arc<dyn Model>> {
    load_telling(folder, load_format, device, &|_| ())
}

/// [`load`], which tells after each tensor how far it is.
///
/// Errors: as [`load`].
pub fn load_telling(
    folder: &Path,
    load_format: LoadFormat,
    device: &Device,
    tell: &dyn Fn(LoadProgress),
) -> Result<Arc<dyn Model>> {
    let files = ConfigFiles::read(folder, load_format)?;
    let family = family_of(&files)?;
    let source = (load_format, files.stated_dtype());
    let weights = Weights::open(folder, source, family.renames, (device, tell))?;
    let model = (family.build)(&files, &weights)?;
    weights.finish()?;
    Ok(model)
}
