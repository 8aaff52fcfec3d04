//! A request as the scheduler is given it, and what it keeps of it.

use crate::config::SchedulerConfig;
use crate::sequence::Rank;
use types::content::{BlockKey, Digest};
use types::output::FinishReason;
use types::prompt::{ExpandedPrompt, PlacedItem};
use types::{Error, ErrorKind, RequestId, Result, TokenId};

/// How far a request goes here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// The prompt and one token of each choice; then the KV is exported.
    FirstToken,
    /// The end of every choice.
    End,
}

/// When a choice ends.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StopRule {
    /// Tokens that end it.
    pub end_ids: Vec<TokenId>,
    /// They are not looked at before the answer has this many tokens.
    pub min_tokens: u32,
    /// Most tokens of the answer; `None` is the rest of the context.
    pub max_tokens: Option<u32>,
}

impl StopRule {
    /// Whether an answer of `n_answer` tokens ends with `token`, its last.
    fn reason(&self, token: TokenId, n_answer: usize) -> Option<FinishReason> {
        if n_answer > self.min_tokens as usize && self.end_ids.contains(&token) {
            return Some(FinishReason::Stop);
        }
        self.is_full(n_answer).then_some(FinishReason::Length)
    }

    /// Whether an answer may not be longer than `n_answer` tokens.
    fn is_full(&self, n_answer: usize) -> bool {
        self.max_tokens.is_some_and(|max| n_answer >= max as usize)
    }
}

/// A request to run.
#[derive(Debug, Clone)]
pub struct NewRequest {
    /// Unique among all requests known here.
    pub id: RequestId,
    /// Tokens and media.
    pub prompt: ExpandedPrompt,
    /// Parent key of the prompt's first block.
    pub block_root: BlockKey,
    /// When a choice ends.
    pub stop: StopRule,
    /// Number of choices.
    pub n_choices: u32,
    /// Index of the first of them.
    pub first_choice: u32,
    /// The last so many tokens of the prompt are already part of the answer.
    pub n_answered: usize,
    /// How far it goes.
    pub until: Until,
    /// Higher goes first; equal ones go in order of arrival.
    pub priority: i32,
    /// Its tokens decide how the next one is chosen, so no step of it is planned before they are
    /// known.
    pub needs_tokens: bool,
}

/// A request whose prompt another engine has computed.
#[derive(Debug, Clone)]
pub struct NewImport {
    /// The request; always runs until the end.
    pub request: NewRequest,
    /// The first token of each choice; `None` for a choice that has ended.
    pub first_tokens: Vec<Option<TokenId>>,
}

/// Where a request's prompt can be computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PromptPlace {
    /// Here; a preempted sequence is computed again.
    Here,
    /// Elsewhere, because it was imported or its rows were let go; a preempted sequence is handed
    /// back.
    Elsewhere,
}

/// What the scheduler keeps of a request.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) items: Vec<PlacedItem>,
    pub(crate) block_root: BlockKey,
    /// Blocks from this position on are not shared: a medium without identity lies there.
    pub(crate) shareable_len: usize,
    pub(crate) stop: StopRule,
    pub(crate) n_choices: u32,
    /// Length of the prompt without what is already answer.
    pub(crate) question_len: usize,
    pub(crate) until: Until,
    pub(crate) needs_tokens: bool,
    pub(crate) prompt_place: PromptPlace,
    /// Per item: its rows are at hand.
    pub(crate) supplied: Vec<bool>,
    /// Per item: its rows were asked for.
    pub(crate) asked: Vec<bool>,
    /// Whether the prompt was computed once and every choice has its own sequence.
    pub(crate) forked: bool,
    /// Choices that were ended from outside before they had a sequence.
    pub(crate) stopped: Vec<u32>,
    /// Sequences that are queued or running.
    pub(crate) live: Vec<Rank>,
}

impl Request {
    pub(crate) fn new(request: &NewRequest, prompt_place: PromptPlace) -> Self {
        let items = request.prompt.items.clone();
        let anonymous = items.iter().find(|placed| placed.item.digest == Digest::default());
        Self {
            shareable_len: anonymous.map_or(usize::MAX, |placed| placed.start),
            supplied: vec![false; items.len()],
            asked: vec![false; items.len()],
            items,
            block_root: request.block_root,
            stop: request.stop.clone(),
            n_choices: request.n_choices,
            question_len: request.prompt.tokens.len() - request.n_answered,
            until: request.until,
            needs_tokens: request.needs_tokens,
            prompt_place,
            forked: prompt_place == PromptPlace::Elsewhere,
            stopped: Vec::new(),
            live: Vec::new(),
        }
    }

    /// Places in the batch that one of its sequences takes.
    pub(crate) fn slots(&self) -> usize {
        match (self.forked, self.until) {
            (false, Until::End) => self.n_choices as usize,
            (true, _) | (_, Until::FirstToken) => 1,
        }
    }

    /// One past the last position whose row may be computed when `n_computed` are: nothing from the
    /// first missing embedding row on.
    pub(crate) fn rows_end(&self, n_computed: usize) -> usize {
        let mut ahead = self.items.iter().zip(&self.supplied);
        let missing = ahead.find(|(placed, supplied)| !**supplied && placed.end() > n_computed);
        missing.map_or(usize::MAX, |(placed, _)| placed.start.max(n_computed))
    }

    /// Items that end after `n_computed` and whose rows were never asked for; now they are.
    pub(crate) fn ask_items(&mut self, n_computed: usize) -> Vec<usize> {
        let is_new = |idx: &usize| self.items[*idx].end() > n_computed && !self.asked[*idx];
        let new: Vec<usize> = (0..self.items.len()).filter(is_new).collect();
        new.iter().for_each(|idx| self.asked[*idx] = true);
        new
    }

    /// Whether a choice may go on with a next token before that is known: unless it will be the
    /// last at any rate, or becomes several sequences, or goes elsewhere. `n_tokens` counts it.
    pub(crate) fn goes_on(&self, n_tokens: usize, seq_len_max: usize) -> bool {
        let is_alone = self.forked || (self.n_choices == 1 && self.until == Until::End);
        is_alone && !self.stop.is_full(n_tokens - self.question_len) && n_tokens < seq_len_max
    }

    /// Why a choice whose tokens are `tokens` ends now, if it does.
    pub(crate) fn finish_reason(
        &self,
        tokens: &[TokenId],
        seq_len_max: usize,
    ) -> Option<FinishReason> {
        let last = *tokens.last()?;
        let reason = self.stop.reason(last, tokens.len() - self.question_len);
        reason.or((tokens.len() >= seq_len_max).then_some(FinishReason::Length))
    }
}

/// Refuses what can never run under `cfg`.
pub(crate) fn validate(
    request: &NewRequest,
    cfg: &SchedulerConfig,
    prompt_place: PromptPlace,
) -> Result<()> {
    let prompt_len = request.prompt.tokens.len();
    if prompt_len == 0 || request.n_answered > prompt_len {
        return Err(Error::invalid("the prompt is empty"));
    }
    if request.n_choices == 0 {
        return Err(Error::invalid("n must be at least 1").at("n"));
    }
    if request.until == Until::End && request.n_choices as usize > cfg.max_batch_size {
        let max = cfg.max_batch_size;
        return Err(Error::invalid(format!("n is more than this server's batch of {max}")).at("n"));
    }
    validate_items(request)?;
    // An imported choice has its first token already and goes on to a second.
    validate_len(request, cfg, if prompt_place == PromptPlace::Elsewhere { 2 } else { 1 })
}

fn validate_items(request: &NewRequest) -> Result<()> {
    let mut end = 0;
    for placed in &request.prompt.items {
        if placed.start < end || placed.end() > request.prompt.tokens.len() {
            return Err(Error::internal("media overlap or lie outside the prompt"));
        }
        end = placed.end();
    }
    Ok(())
}

fn validate_len(request: &NewRequest, cfg: &SchedulerConfig, n_least: usize) -> Result<()> {
    let prompt_len = request.prompt.tokens.len();
    let max = cfg.seq_len_max();
    let left = match request.stop.max_tokens {
        Some(max_tokens) if (max_tokens as usize) < request.n_answered + n_least => {
            return Err(Error::invalid("max_tokens leaves no token to generate").at("max_tokens"));
        }
        Some(max_tokens) => max_tokens as usize - request.n_answered,
        None => n_least,
    };
    if prompt_len.saturating_add(left) <= max {
        return Ok(());
    }
    let holder = if max < cfg.max_seq_len { "this server's KV memory" } else { "the context" };
    Err(Error::new(
        ErrorKind::ContextLengthExceeded,
        format!(
            "the prompt has {prompt_len} tokens and at least {left} more are asked for; {holder} \
             holds {max}"
        ),
    ))
}
