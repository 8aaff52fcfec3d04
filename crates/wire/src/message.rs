//! The messages themselves.

use bytes::Bytes;
use planes::{Address, RemoteHandle};
use std::time::Duration;
use types::kv::KvLayout;
use types::media::{MediaItem, MediaKind};
use types::output::{FinishReason, OutputToken};
use types::sampling::SamplingParams;
use types::stage::Stages;
use types::{RequestId, Secret, TokenId};

/// Every request to a worker.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// Run stages of a request.
    Run(Box<Run>),
    /// Wait until embedding rows are ready, and lease them to the caller for as long as it keeps
    /// the stream of replies.
    AwaitRows(Ticket),
    /// Send the model card.
    FetchCard,
    /// Promise room for a prompt that prefill is going to compute, for as long as the caller keeps
    /// the stream of replies.
    Reserve {
        /// Tokens of the expanded prompt.
        n_tokens: u32,
        /// Choices that will go on from it.
        n_choices: u32,
    },
    /// End one choice of a running request, as a stop token would; there is no reply.
    FinishChoice {
        /// The request.
        request: RequestId,
        /// Which of its choices.
        choice: u32,
    },
    /// Compute what was described: decode has room for it. There is no reply.
    Proceed {
        /// The request.
        request: RequestId,
    },
}

/// Run consecutive stages of one request on the instance called.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// The request.
    pub id: RequestId,
    /// Which stages.
    pub stages: Stages,
    /// The prompt, one placeholder per medium; empty when encode runs alone. Decode needs it too:
    /// the keys of its blocks and the penalties come from it.
    pub prompt: Vec<TokenId>,
    /// The media, in prompt order, when encode is among the stages.
    pub media: Vec<Medium>,
    /// The media as somebody else described them, when it is not.
    pub items: Vec<Item>,
    /// How to choose tokens; says nothing when encode runs alone.
    pub sampling: SamplingParams,
    /// Prefix cache blocks are shared only under the same salt.
    pub cache_salt: String,
    /// Number of the first of the `sampling.n` choices (above 0 when a lost choice is resumed).
    pub first_choice: u32,
    /// How many of the prompt's last tokens are already part of the answer.
    pub n_answered: u32,
    /// The prompt's KV, when decode runs alone.
    pub kv: Option<KvHandoff>,
}

/// A medium to encode.
#[derive(Debug, Clone, PartialEq)]
pub struct Medium {
    /// What it claims to be.
    pub kind: MediaKind,
    /// Where its encoded bytes are.
    pub source: MediumSource,
    /// The client's identifier, hashed with the content.
    pub uuid: Option<String>,
    /// Canonical JSON of the processor options.
    pub processor_options: String,
    /// The request field it came from.
    pub param: String,
}

/// Where the encoded bytes of a medium are.
#[derive(Debug, Clone, PartialEq)]
pub enum MediumSource {
    /// In the message; small ones only.
    Inline(Bytes),
    /// In the sender's memory.
    Lent {
        /// The right to read them.
        handle: RemoteHandle,
        /// How many there are.
        n_bytes: usize,
    },
    /// In a file on the worker's machine.
    Path(String),
    /// Behind an address.
    Url(String),
}

/// A described medium, and where its rows will be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// What the encoder said of it.
    pub item: MediaItem,
    /// The right to its rows; decode has none.
    pub rows: Option<Ticket>,
}

/// The right to embedding rows that may not be ready yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The encoder.
    pub owner: Address,
    /// The request.
    pub request: RequestId,
    /// Which of its media.
    pub item_idx: u32,
    /// Proof of the right.
    pub secret: Secret,
}

/// The KV blocks of a prompt, and all that decode needs beside them.
#[derive(Debug, Clone, PartialEq)]
pub struct KvHandoff {
    /// One region for each block, in prompt order.
    pub handle: RemoteHandle,
    /// How a block is laid out; must equal the reader's.
    pub layout: KvLayout,
    /// Tokens whose KV is in the blocks: the whole prompt.
    pub n_tokens: usize,
    /// What is added to a token's index to get its rotary position.
    pub positions_delta: i64,
    /// The first token of each choice; `None` where the choice has ended already.
    pub first: Vec<Option<TokenId>>,
    /// How long the lender lets the transfer of the blocks take, once it has begun; to the
    /// millisecond.
    pub transfer_time: Duration,
}

/// Every answer of a worker.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// A medium's bytes and header are there.
    Described {
        /// Which medium.
        item_idx: u32,
        /// What it is, and the right to its rows.
        item: Item,
    },
    /// Prefill has looked at its prefix cache.
    Admitted {
        /// Length of the expanded prompt.
        prompt_tokens: u32,
        /// Tokens found in the cache.
        cached_tokens: u32,
    },
    /// More tokens of a choice.
    Tokens {
        /// Which choice.
        choice: u32,
        /// The tokens.
        tokens: Vec<OutputToken>,
    },
    /// A choice has ended.
    Finished {
        /// Which choice.
        choice: u32,
        /// Why.
        reason: FinishReason,
    },
    /// Prefill is done; the KV blocks are leased for as long as the stream is kept.
    Handoff(KvHandoff),
    /// Room is promised.
    Reserved,
    /// The KV blocks have arrived at decode.
    Pulled,
    /// A peer that the call needs was lost; the worker itself is well. Nothing follows.
    Stranded {
        /// What happened.
        why: String,
    },
    /// Decode gave up a choice for lack of blocks.
    Preempted {
        /// Which choice.
        choice: u32,
    },
    /// Rows that are ready.
    Rows {
        /// The right to read them; one region.
        handle: RemoteHandle,
        /// Their size.
        n_bytes: usize,
    },
    /// The next piece of the card.
    Card(Bytes),
}
