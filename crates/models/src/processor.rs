//! What planners see of a model: from a picture's size to its number of rows, and from its pixels
//! to the tower's input. Pure CPU work without weights, the same on every worker.

use media::{Image, Size};
use types::Result;
use types::content::Digest;
use types::media::{Grid, MediaKind};

/// The preprocessing of one model.
pub trait Processor: Send + Sync {
    /// How a medium of `size` (after EXIF rotation) will be seen.
    ///
    /// `options` is canonical JSON (`{}` when there are none): what the request overrides.
    /// Errors: `InvalidInput` when the model has no such kind, refuses the size or an option.
    fn plan(&self, kind: MediaKind, size: Size, options: &str) -> Result<MediaPlan>;

    /// Resizes an image to its plan; normalising and cutting into patches happen in `encode`.
    fn prepare(&self, image: &Image, plan: &MediaPlan, options: &str) -> Result<PreparedMedia>;

    /// Identity of everything configured here that changes the tower's input.
    fn digest_fields(&self) -> Digest;
}

/// How a medium will be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MediaPlan {
    /// Its own size, after EXIF rotation.
    pub size: Size,
    /// The tower's input, in patches; `t` is the number of frames, or of a picture's tiles.
    pub grid: Grid,
    /// Rows that its embedding has.
    pub n_tokens: u32,
}

/// A medium ready for the tower.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedMedia {
    /// How it is seen.
    pub plan: MediaPlan,
    /// Resized RGB pixels, `[height, width, 3]` of the plan's grid, one frame or tile after the
    /// other.
    pub pixels: Vec<u8>,
}
