//! What the owner of a request is told.

use types::output::{FinishReason, OutputToken};
use types::{Error, RequestId};

/// Something that happened to a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The request.
    pub id: RequestId,
    /// What happened.
    pub kind: EventKind,
}

/// What can happen to a request.
#[derive(Debug, Clone, PartialEq)]
pub enum EventKind {
    /// Blocks of the prompt's beginning were found and are held; rows of `needed_items` must be
    /// supplied, and kept until the request ends or the scheduler lets go of them. The first event
    /// of a submitted request; comes again with further items when blocks that covered them had to
    /// be given up. No item comes twice.
    Pinned {
        /// Tokens at the beginning of the prompt that need not be computed.
        cached_tokens: u32,
        /// Items whose rows must be supplied.
        needed_items: Vec<usize>,
    },
    /// More tokens of one choice.
    Tokens {
        /// Index of the choice.
        choice: u32,
        /// The tokens, the one that ends the choice included.
        tokens: Vec<OutputToken>,
    },
    /// A choice ended.
    Finished {
        /// Index of the choice.
        choice: u32,
        /// Why.
        reason: FinishReason,
    },
    /// The prompt's KV is complete and held for a peer until release or abort.
    Exported {
        /// Blocks of the prompt, in order.
        blocks: Vec<u32>,
        /// Tokens that they hold.
        n_tokens: usize,
    },
    /// Blocks for an imported prompt are reserved.
    ImportReady {
        /// Index in the prompt and block of the pool, for each block that is not here already.
        missing: Vec<(usize, u32)>,
    },
    /// A choice lost its blocks and is forgotten, because its prompt cannot be computed here: it
    /// was imported, or its rows were let go. It must be prefilled again.
    Preempted {
        /// Index of the choice.
        choice: u32,
    },
    /// The request failed and is forgotten.
    Failed(Error),
    /// The last event: the request is forgotten.
    Ended,
}
