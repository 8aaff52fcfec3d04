//! What callers ask of an engine, and what they are told.

use models::PreparedMedia;
use std::sync::Arc;
use tensor::SlabRange;
use types::content::BlockKey;
use types::output::{FinishReason, OutputToken};
use types::prompt::ExpandedPrompt;
use types::sampling::SamplingParams;
use types::{Error, RequestId, Result, TokenId};

pub use scheduler::Until;

/// One medium to encode.
#[derive(Debug)]
pub struct EncodeJob {
    /// The request it belongs to.
    pub id: RequestId,
    /// Its index among the request's media; a request has each index queued once at most.
    pub item_idx: usize,
    /// The tower's input.
    pub media: PreparedMedia,
    /// Embedding memory of exactly the size of its rows. Who asks brings it, so that nothing in the
    /// engine ever waits for memory while it holds some.
    pub rows: SlabRange,
    /// Who computes with the rows.
    pub used: Used,
}

/// Who computes with the rows of a medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Used {
    /// The submitted request of the job's id: it is supplied as if by [`crate::Engine::supply`],
    /// without a way through the caller.
    Here,
    /// Whoever the sink gives them to.
    Elsewhere,
}

/// Gets the rows of a medium, f32 `[n_tokens, hidden_size]`, exactly once; `Cancelled` after an
/// abort. Called on the engine's thread; must not block.
pub type EncodeSink = Box<dyn FnOnce(Result<Arc<SlabRange>>) + Send>;

/// Gets the events of a request, and is dropped after the last one. Called on the engine's thread;
/// must not block.
pub type SeqSink = Box<dyn FnMut(SeqEvent) + Send>;

/// A prompt to prefill.
#[derive(Debug, Clone)]
pub struct SeqRequest {
    /// Unique among the requests of this engine.
    pub id: RequestId,
    /// Tokens and media.
    pub prompt: ExpandedPrompt,
    /// How to choose tokens.
    pub sampling: SamplingParams,
    /// Parent key of the prompt's first block.
    pub block_root: BlockKey,
    /// How far to go here.
    pub until: Until,
    /// Higher goes first.
    pub priority: i32,
    /// Index of the first choice (a resumed one comes alone).
    pub first_choice: u32,
    /// The last so many tokens of the prompt are already part of the answer.
    pub n_answered: usize,
}

/// A prompt that another engine has prefilled.
#[derive(Debug, Clone)]
pub struct ImportRequest {
    /// Unique among the requests of this engine.
    pub id: RequestId,
    /// Tokens and media.
    pub prompt: ExpandedPrompt,
    /// How to choose tokens.
    pub sampling: SamplingParams,
    /// Parent key of the prompt's first block.
    pub block_root: BlockKey,
    /// Higher goes first.
    pub priority: i32,
    /// Index of the first choice.
    pub first_choice: u32,
    /// The last so many tokens of the prompt are already part of the answer.
    pub n_answered: usize,
    /// The first token of each choice; `None` for a choice that has ended.
    pub first_tokens: Vec<Option<TokenId>>,
    /// What to add to an index behind the prompt to get its rotary position.
    pub positions_delta: i64,
}

/// What happens to a request. After the last event (all choices finished, preempted, exported or
/// failed) the sink is dropped.
#[derive(Debug, Clone, PartialEq)]
pub enum SeqEvent {
    /// The first event of a submitted request: cached blocks are held, and the rows of
    /// `needed_items` (those not wholly inside the cached beginning) must be supplied.
    ///
    /// Rarely comes again, with further items, when blocks that covered them had to be given up:
    /// supply those too, or abort the request and begin anew. No item is asked for twice; supplied
    /// rows are kept until the last event, or until somebody waits for embedding memory when the
    /// prompt has been computed.
    Pinned {
        /// Tokens at the beginning of the prompt that need not be computed.
        cached_tokens: u32,
        /// Indices of the media whose rows are needed and were not asked for before.
        needed_items: Vec<usize>,
    },
    /// More tokens of one choice, the one that ends it included.
    Tokens {
        /// Index of the choice.
        choice: u32,
        /// The tokens, in order.
        tokens: Vec<OutputToken>,
    },
    /// A choice ended.
    Finished {
        /// Index of the choice.
        choice: u32,
        /// Why.
        reason: FinishReason,
    },
    /// The prompt's KV is complete, after the first tokens and unless every choice has ended. The
    /// blocks stay until release or abort.
    Exported {
        /// Blocks in the order of the prompt.
        blocks: Vec<u32>,
        /// Tokens that they hold: the prompt's.
        n_tokens: usize,
        /// What to add to an index behind the prompt to get its rotary position.
        positions_delta: i64,
    },
    /// An import's blocks are reserved; the bytes of `missing` must be brought. The caller answers
    /// each of these with one `imported` or `release`, also after an abort: only then are the
    /// blocks given to others.
    ImportReady {
        /// Index of the block in the prompt, and the block of this engine.
        missing: Vec<(usize, u32)>,
    },
    /// A choice lost its KV and is gone from here; the caller prefills again. Only of an import, or
    /// of a request whose rows were let go.
    Preempted {
        /// Index of the choice.
        choice: u32,
    },
    /// The request failed; the last event.
    Failed(Error),
}
