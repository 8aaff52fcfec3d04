//! Media as the planner sees them: where the bytes are, and what the tower will make of them.

use crate::content::Digest;
use std::sync::Arc;

/// The kinds of media that a content part may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MediaKind {
    /// A still picture.
    Image,
    /// A sequence of frames.
    Video,
    /// A sound.
    Audio,
}

impl MediaKind {
    /// What it is called in messages, templates and digests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Video => "video",
            Self::Audio => "audio",
        }
    }
}

/// Where the encoded bytes of a medium come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MediaSource {
    /// The bytes themselves (a data URL, decoded by the frontend).
    Bytes(Arc<[u8]>),
    /// A file that the encoding worker may read, under its `--allowed-local-media-path`.
    Path(String),
    /// An HTTP(S) address that the encoding worker fetches.
    Url(String),
}

/// One medium of a request, before anybody has looked at its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaRef {
    /// What it claims to be.
    pub kind: MediaKind,
    /// Where its bytes are.
    pub source: MediaSource,
    /// The client's own identifier; hashed together with the content, never instead of it.
    pub uuid: Option<String>,
    /// The processor options of this request and item, as canonical JSON (`{}` when there are
    /// none).
    pub processor_options: String,
    /// The request field it came from, for error messages.
    pub param: String,
}

/// The tower's input in patches: `t * h * w` rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Grid {
    /// Temporal patches; 1 for a picture.
    pub t: u32,
    /// Rows of patches.
    pub h: u32,
    /// Columns of patches.
    pub w: u32,
}

impl Grid {
    /// Number of patches, before any merging.
    pub fn n_patches(self) -> usize {
        self.t as usize * self.h as usize * self.w as usize
    }
}

/// What is known of a medium as soon as its bytes and header are there, long before it is encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaItem {
    /// What it is.
    pub kind: MediaKind,
    /// Identity of everything that determines its embedding rows.
    pub digest: Digest,
    /// The tower's input, in patches.
    pub grid: Grid,
    /// Rows that its embedding has, and so placeholder tokens that it takes in the prompt.
    pub n_tokens: u32,
}
