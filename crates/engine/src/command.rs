//! All that can be said to an engine's thread.

use crate::request::{EncodeJob, EncodeSink, ImportRequest, SeqRequest, SeqSink};
use std::sync::Arc;
use tensor::SlabRange;
use types::{RequestId, Result};

/// A message to the engine's thread.
pub(crate) enum Command {
    Encode(Box<EncodeJob>, EncodeSink),
    Submit(Box<SeqRequest>, SeqSink),
    Supply { id: RequestId, item_idx: usize, rows: Arc<SlabRange> },
    Import(Box<ImportRequest>, SeqSink),
    Imported(RequestId),
    FinishChoice { id: RequestId, choice: u32 },
    Abort(RequestId),
    Release(RequestId),
    WarmUp(ReadySink),
}

/// Told once when something is ready, or why it is not.
pub(crate) type ReadySink = Box<dyn FnOnce(Result<()>) + Send>;

impl Command {
    /// Whether it brings new work; the others only let known work go on or end, so they are never
    /// refused.
    pub(crate) fn is_new_work(&self) -> bool {
        match self {
            Self::Encode(..) | Self::Submit(..) | Self::Import(..) | Self::WarmUp(_) => true,
            Self::Supply { .. }
            | Self::Imported(_)
            | Self::FinishChoice { .. }
            | Self::Abort(_)
            | Self::Release(_) => false,
        }
    }
}
