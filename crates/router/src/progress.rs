//! How far the choices of a request have come, and what its reader has been told.

use planes::ReplySender;
use types::output::{FinishReason, GenerateEvent, OutputToken};
use types::{Error, ErrorKind, Result, TokenId};

/// The choices of one request.
pub(crate) struct Progress {
    out: ReplySender<GenerateEvent>,
    is_admitted: bool,
    choices: Vec<Choice>,
}

#[derive(Default)]
struct Choice {
    tokens: Vec<TokenId>,
    state: State,
}

#[derive(Default, PartialEq, Eq, Clone, Copy)]
enum State {
    #[default]
    Running,
    Preempted,
    Finished,
}

impl Progress {
    pub(crate) fn new(n_choices: u32, out: ReplySender<GenerateEvent>) -> Self {
        let choices = (0..n_choices).map(|_| Choice::default()).collect();
        Self { out, is_admitted: false, choices }
    }

    /// Tells the reader once; when a request is prefilled again it has been told already.
    pub(crate) async fn admit(&mut self, prompt_tokens: u32, cached_tokens: u32) -> Result<()> {
        if std::mem::replace(&mut self.is_admitted, true) {
            return Ok(());
        }
        self.out.send(GenerateEvent::Admitted { prompt_tokens, cached_tokens }).await
    }

    pub(crate) async fn add(&mut self, choice: u32, tokens: Vec<OutputToken>) -> Result<()> {
        let known = self.choice(choice)?;
        known.tokens.extend(tokens.iter().map(|token| token.token));
        self.out.send(GenerateEvent::Tokens { choice, tokens }).await
    }

    pub(crate) async fn finish(&mut self, choice: u32, reason: FinishReason) -> Result<()> {
        self.choice(choice)?.state = State::Finished;
        self.out.send(GenerateEvent::Finished { choice, reason }).await
    }

    pub(crate) fn preempt(&mut self, choice: u32) -> Result<()> {
        self.choice(choice)?.state = State::Preempted;
        Ok(())
    }

    /// Whether the first token of any choice is out.
    pub(crate) fn has_begun(&self) -> bool {
        self.choices.iter().any(|choice| !choice.tokens.is_empty())
    }

    /// The next choice that must be prefilled again, counted as running from now on.
    pub(crate) fn resume(&mut self) -> Option<u32> {
        let is_preempted = |choice: &Choice| choice.state == State::Preempted;
        let idx = self.choices.iter().position(is_preempted)?;
        self.choices[idx].state = State::Running;
        Some(idx as u32)
    }

    /// The tokens of a choice so far.
    pub(crate) fn tokens(&self, choice: u32) -> &[TokenId] {
        &self.choices[choice as usize].tokens
    }

    /// Errors: a stream of replies ended while a choice was running.
    pub(crate) fn check_none_lost(&self) -> Result<()> {
        if self.choices.iter().any(|choice| choice.state == State::Running) {
            return Err(ended_too_soon());
        }
        Ok(())
    }

    fn choice(&mut self, choice: u32) -> Result<&mut Choice> {
        let unknown = || Error::internal("a worker answered for a choice that was not asked for");
        let found = self.choices.get_mut(choice as usize).ok_or_else(unknown)?;
        if found.state == State::Finished {
            return Err(Error::internal("a worker went on with a choice that had ended"));
        }
        Ok(found)
    }
}

/// The error for a stream of replies that ended before its work was done.
pub(crate) fn ended_too_soon() -> Error {
    Error::new(ErrorKind::PeerLost, "a worker ended its answer too soon")
}
