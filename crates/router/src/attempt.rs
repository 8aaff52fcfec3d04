//! What one passage of a request through the stages is asked to do.

use crate::lend::LentMedia;
use std::time::{Duration, Instant};
use types::TokenId;
use types::request::GenerateRequest;
use types::sampling::SamplingParams;
use types::stage::{Stage, Stages};
use wire::message::Run;

/// One passage through the stages, for all choices or for one that is taken up again.
pub(crate) struct Attempt<'a> {
    pub(crate) request: &'a GenerateRequest,
    pub(crate) lent: &'a LentMedia,
    pub(crate) prompt: Vec<TokenId>,
    pub(crate) sampling: SamplingParams,
    first_choice: u32,
    n_answered: u32,
    started: Instant,
}

impl<'a> Attempt<'a> {
    /// All choices, from the beginning of a request that came at `started`.
    pub(crate) fn first(
        request: &'a GenerateRequest,
        lent: &'a LentMedia,
        started: Instant,
    ) -> Self {
        Self {
            request,
            lent,
            prompt: request.prompt.clone(),
            sampling: request.sampling.clone(),
            first_choice: 0,
            n_answered: 0,
            started,
        }
    }

    /// One choice, whose answer so far becomes part of the prompt.
    pub(crate) fn again(
        request: &'a GenerateRequest,
        lent: &'a LentMedia,
        choice: u32,
        answer: &[TokenId],
    ) -> Self {
        Self {
            prompt: [&request.prompt, answer].concat(),
            sampling: SamplingParams { n: 1, ..request.sampling.clone() },
            first_choice: choice,
            n_answered: answer.len() as u32,
            ..Self::first(request, lent, Instant::now())
        }
    }

    /// What is left of the time to the first token.
    pub(crate) fn time_left(&self) -> Duration {
        self.request.first_token_deadline.saturating_sub(self.started.elapsed())
    }

    /// The message that asks for `stages` of it. A long prompt is most of a message, so it travels
    /// only to those who read it.
    pub(crate) fn run(&self, stages: Stages) -> Run {
        let reads_prompt = stages != Stages::of(&[Stage::Encode]);
        Run {
            id: self.request.id,
            stages,
            prompt: if reads_prompt { self.prompt.clone() } else { Vec::new() },
            media: if stages.has(Stage::Encode) { self.lent.media.clone() } else { Vec::new() },
            items: Vec::new(),
            sampling: if reads_prompt { self.sampling.clone() } else { <_>::default() },
            cache_salt: self.request.cache_salt.clone(),
            first_choice: self.first_choice,
            n_answered: if reads_prompt { self.n_answered } else { 0 },
            kv: None,
        }
    }
}
