//! The text of an answer's choices as tokens come in.
//!
//! Whoever sends pieces takes what is pending of a choice; whoever sends the whole answer takes it
//! once, at the end.

use crate::conversation::SamplingWishes;
use crate::loaded::LoadedModel;
use std::collections::VecDeque;
use std::sync::Arc;
use text::TextStream;
use types::output::{FinishReason, GenerateEvent, OutputToken};
use types::{Error, Result, TokenId};

/// Tokens of prompt and answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Usage {
    pub(crate) prompt_tokens: u32,
    pub(crate) cached_tokens: u32,
    pub(crate) completion_tokens: u32,
}

/// All choices of a request.
pub(crate) struct Answer {
    pub(crate) model: Arc<LoadedModel>,
    pub(crate) choices: Vec<Choice>,
    pub(crate) usage: Usage,
    /// Tokens that end a choice and are no part of its text.
    end_tokens: Vec<TokenId>,
    min_tokens: usize,
    wants_logprobs: bool,
    has_begun: bool,
}

/// One choice.
pub(crate) struct Choice {
    text: TextStream,
    n_tokens: usize,
    /// What can be sent.
    pub(crate) pending: Pending,
    n_bytes_shown: usize,
    /// Tokens whose log probabilities were asked for and of which nothing was shown yet, each with
    /// the byte of the text where it begins.
    held_tokens: VecDeque<(usize, OutputToken)>,
    pub(crate) finish: Option<FinishReason>,
}

/// Text that can be sent, in the pieces in which it became certain: one for each token that
/// completed some.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    pub(crate) text: String,
    /// Tokens whose log probabilities were asked for: those of which some text is in the answer. So
    /// those of a stop string are never sent.
    pub(crate) tokens: Vec<OutputToken>,
    /// Where each piece ends.
    ends: Vec<PieceEnd>,
}

/// Bytes of text and number of tokens up to the end of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct PieceEnd {
    text: usize,
    tokens: usize,
}

impl Answer {
    pub(crate) fn new(model: Arc<LoadedModel>, wishes: &SamplingWishes) -> Self {
        let mut end_tokens = wishes.stop_token_ids.clone();
        if !wishes.ignore_eos {
            end_tokens.extend(&model.defaults.eos_token_ids);
        }
        let choice = |_| Choice {
            text: TextStream::new(
                Arc::clone(&model.tokenizer),
                wishes.skip_special_tokens,
                wishes.stop.clone(),
            ),
            n_tokens: 0,
            pending: Pending::default(),
            n_bytes_shown: 0,
            held_tokens: VecDeque::new(),
            finish: None,
        };
        Self {
            choices: (0..wishes.n).map(choice).collect(),
            usage: Usage::default(),
            end_tokens,
            min_tokens: wishes.min_tokens as usize,
            wants_logprobs: wishes.logprobs.is_some(),
            has_begun: false,
            model,
        }
    }

    /// Whether a token or an end has come.
    pub(crate) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Whether every choice has ended.
    pub(crate) fn is_done(&self) -> bool {
        self.choices.iter().all(|choice| choice.finish.is_some())
    }

    /// Takes an event in; gives the choice that it ended by a stop string, if it did.
    ///
    /// Errors: it names a choice that was not asked for.
    pub(crate) fn apply(&mut self, event: GenerateEvent) -> Result<Option<u32>> {
        match event {
            GenerateEvent::Admitted { prompt_tokens, cached_tokens } => {
                self.usage.prompt_tokens = prompt_tokens;
                self.usage.cached_tokens = cached_tokens;
            }
            GenerateEvent::Tokens { choice, tokens } => {
                self.has_begun = true;
                let is_stopped = self.add(choice as usize, tokens)?;
                return Ok(is_stopped.then_some(choice));
            }
            GenerateEvent::Finished { choice, reason } => {
                self.has_begun = true;
                self.choice(choice as usize)?.finish(reason);
            }
        }
        Ok(None)
    }

    /// Whether one of the tokens completed a stop string.
    fn add(&mut self, choice: usize, tokens: Vec<OutputToken>) -> Result<bool> {
        let Self { end_tokens, min_tokens, wants_logprobs, usage, .. } = self;
        let choice = self.choices.get_mut(choice).ok_or_else(unknown_choice)?;
        for token in tokens {
            // A stop string may have ended it while more tokens were on their way.
            if choice.finish.is_some() {
                return Ok(false);
            }
            choice.n_tokens += 1;
            usage.completion_tokens += 1;
            let ends = choice.n_tokens > *min_tokens && end_tokens.contains(&token.token);
            if !ends && choice.push(token, *wants_logprobs) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn choice(&mut self, idx: usize) -> Result<&mut Choice> {
        self.choices.get_mut(idx).ok_or_else(unknown_choice)
    }
}

impl Choice {
    /// Whether the token completed a stop string.
    fn push(&mut self, token: OutputToken, wants_logprobs: bool) -> bool {
        let begins_at = self.text.n_bytes_decoded();
        let delta = self.text.push(token.token);
        if wants_logprobs {
            self.held_tokens.push_back((begins_at, token));
        }
        self.show(&delta.text);
        self.pending.end_piece();
        if delta.is_stopped {
            self.held_tokens.clear();
            self.finish = Some(FinishReason::Stop);
        }
        delta.is_stopped
    }

    fn show(&mut self, text: &str) {
        self.pending.text.push_str(text);
        self.n_bytes_shown += text.len();
        let n_shown = self.n_bytes_shown;
        let shown = |(begins_at, _): &mut (usize, OutputToken)| *begins_at < n_shown;
        while let Some((_, token)) = self.held_tokens.pop_front_if(shown) {
            self.pending.tokens.push(token);
        }
    }

    fn finish(&mut self, reason: FinishReason) {
        if self.finish.is_none() {
            let delta = self.text.finish();
            self.show(&delta.text);
            self.finish = Some(if delta.is_stopped { FinishReason::Stop } else { reason });
            // Tokens without any text count as shown when all text is.
            let rest = std::mem::take(&mut self.held_tokens).into_iter().map(|(_, token)| token);
            self.pending.tokens.extend(rest.filter(|_| !delta.is_stopped));
            self.pending.end_piece();
        }
    }
}

impl Pending {
    /// What came since the last piece, if anything did, is one.
    fn end_piece(&mut self) {
        let end = PieceEnd { text: self.text.len(), tokens: self.tokens.len() };
        if self.ends.last().copied().unwrap_or_default() != end {
            self.ends.push(end);
        }
    }

    /// Number of pieces.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Each piece's text and tokens, in order.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = (&str, &[OutputToken])> {
        let begins = std::iter::once(&PieceEnd { text: 0, tokens: 0 }).chain(&self.ends);
        let spans = begins.zip(&self.ends);
        spans.map(|(from, to)| {
            (&self.text[from.text..to.text], &self.tokens[from.tokens..to.tokens])
        })
    }

    /// Forgets what was sent; the memory is used again.
    pub(crate) fn clear(&mut self) {
        self.text.clear();
        self.tokens.clear();
        self.ends.clear();
    }
}

fn unknown_choice() -> Error {
    Error::internal("The engine answered a choice that was not asked for.")
}
