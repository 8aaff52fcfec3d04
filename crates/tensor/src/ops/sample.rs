//! Choosing the next token from a row of logits.
//!
//! Contract: `logits` is f32 `[vocab]`; the result is one token, with log probabilities if asked for.
//! In this order: penalties and bias → no end before `min_tokens` → temperature → min-p → top-k →
//! top-p → draw. Log probabilities are those before temperature. All noise is a function of
//! (seed, choice, index of the token in the answer), so an answer depends on nothing that runs beside
//! it, and can be continued elsewhere. Nothing sorts the vocabulary.

use super::misuse;
use std::cmp::Ordering;
use types::output::{Logprob, OutputToken};
use types::sampling::SamplingParams;
use types::{Result, TokenId};

/// Temperatures below this are greedy: dividing by them would overflow.
const TEMPERATURE_MIN: f32 = 1e-5;

/// What besides the logits decides a token.
#[derive(Debug, Clone, Copy)]
pub struct Draw<'a> {
    /// The request's parameters.
    pub params: &'a SamplingParams,
    /// The tokens of the prompt.
    pub prompt: &'a [TokenId],
    /// The tokens answered so far; their number is the index of this one.
    pub answer: &'a [TokenId],
    /// Index of the choice.
    pub choice: u32,
    /// Tokens that may not come before `params.min_tokens`.
    pub end_ids: &'a [TokenId],
}

/// Scratch memory of the sampler, kept from token to token.
#[derive(Debug, Default)]
pub struct Sampler {
    /// Logits after penalties, bias and mask. `[vocab]`
    logits: Vec<f32>,
    /// Tokens still in question.
    candidates: Vec<Candidate>,
    /// How often each token came, while penalties are applied. `[vocab]`, zero in between.
    counts: Vec<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    token: TokenId,
    logit: f32,
}

impl Sampler {
    /// The next token.
    ///
    /// Errors (`Internal`): a logit is not a number, or no token is possible.
    pub fn sample(&mut self, logits: &[f32], draw: &Draw<'_>) -> Result<OutputToken> {
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        self.penalise(draw);
        self.add_bias(draw);
        let (best, max) = argmax(&self.logits)?;
        let token = if draw.params.temperature < TEMPERATURE_MIN {
            best
        } else {
            self.gather(draw.params, max);
            self.keep_top_k(draw.params.top_k as usize);
            self.draw(draw, max)
        };
        Ok(self.report(token, draw.params.logprobs, max))
    }

    /// Repetition penalty over prompt and answer; presence and frequency over the answer.
    fn penalise(&mut self, draw: &Draw<'_>) {
        let params = draw.params;
        if params.repetition_penalty != 1.0 {
            self.each_distinct(&[draw.prompt, draw.answer], |logit, _| {
                let scale = params.repetition_penalty;
                *logit = if *logit > 0.0 { *logit / scale } else { *logit * scale };
            });
        }
        if params.presence_penalty != 0.0 || params.frequency_penalty != 0.0 {
            self.each_distinct(&[draw.answer], |logit, count| {
                *logit -= params.presence_penalty + params.frequency_penalty * count as f32;
            });
        }
    }

    /// Calls `change` once for each token in `lists`, with its logit and how often it is there.
    fn each_distinct(&mut self, lists: &[&[TokenId]], mut change: impl FnMut(&mut f32, u32)) {
        self.counts.resize(self.logits.len(), 0);
        let known = |token: &&TokenId| (**token as usize) < self.logits.len();
        let tokens = || lists.iter().copied().flatten().filter(known);
        tokens().for_each(|token| self.counts[*token as usize] += 1);
        let mut seen: Vec<usize> = Vec::new();
        for &token in tokens() {
            let count = std::mem::take(&mut self.counts[token as usize]);
            if count > 0 {
                seen.push(token as usize);
                // Kept apart from the loop over logits only to satisfy the borrow of `known`.
                self.counts[token as usize] = 0;
                change_later(&mut self.candidates, token, count);
            }
        }
        for Candidate { token, logit } in self.candidates.drain(..) {
            change(&mut self.logits[token as usize], logit as u32);
        }
    }
}
