//! The text of an answer's choices as tokens come in.
//!
//! Whoever sends pieces takes what is pending of a choice; whoever sends the whole answer takes it
//! once, at the end.

use crate::conversation::SamplingWishes;
use crate::loaded::LoadedModel;
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
    /// Text that can be sent.
    pub(crate) pending_text: String,
    /// Tokens whose log probabilities were asked for and can be sent.
    pub(crate) pending_tokens: Vec<OutputToken>,
    pub(crate) finish: Option<FinishReason>,
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
            pending_text: String::new(),
            pending_tokens: Vec::new(),
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

    /// Takes an event in. Errors: it names a choice that was not asked for.
    pub(crate) fn apply(&mut self, event: GenerateEvent) -> Result<()> {
        match event {
            GenerateEvent::Admitted { prompt_tokens, cached_tokens } => {
                self.usage.prompt_tokens = prompt_tokens;
                self.usage.cached_tokens = cached_tokens;
            }
            GenerateEvent::Tokens { choice, tokens } => {
                self.has_begun = true;
                self.add(choice as usize, tokens)?;
            }
            GenerateEvent::Finished { choice, reason } => {
                self.has_begun = true;
                self.choice(choice as usize)?.finish(reason);
            }
        }
        Ok(())
    }

    fn add(&mut self, choice: usize, tokens: Vec<OutputToken>) -> Result<()> {
        for token in tokens {
            let n_tokens = self.choice(choice)?.n_tokens + 1;
            let ends = n_tokens > self.min_tokens && self.end_tokens.contains(&token.token);
            let wants_logprobs = self.wants_logprobs;
            let choice = &mut self.choices[choice];
            // A stop string may have ended it while more tokens were on their way.
            if choice.finish.is_some() {
                return Ok(());
            }
            choice.n_tokens = n_tokens;
            self.usage.completion_tokens += 1;
            if !ends {
                choice.push(token, wants_logprobs);
            }
        }
        Ok(())
    }

    fn choice(&mut self, idx: usize) -> Result<&mut Choice> {
        let unknown = || Error::internal("The engine answered a choice that was not asked for.");
        self.choices.get_mut(idx).ok_or_else(unknown)
    }
}

impl Choice {
    fn push(&mut self, token: OutputToken, wants_logprobs: bool) {
        let delta = self.text.push(token.token);
        self.pending_text.push_str(&delta.text);
        if wants_logprobs {
            self.pending_tokens.push(token);
        }
        if delta.is_stopped {
            self.finish = Some(FinishReason::Stop);
        }
    }

    fn finish(&mut self, reason: FinishReason) {
        if self.finish.is_none() {
            let delta = self.text.finish();
            self.pending_text.push_str(&delta.text);
            self.finish = Some(if delta.is_stopped { FinishReason::Stop } else { reason });
        }
    }
}
