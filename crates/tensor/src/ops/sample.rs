//! Choosing the next token from a row of logits.
//!
//! Contract: `logits` is f32 `[vocab]`; the result is one token, with log probabilities if asked for.
//! In this order: penalties and bias → no end before `min_tokens` → temperature → min-p → top-k →
//! top-p → draw. Log probabilities are those before temperature. All noise is a function of
//! (seed, choice, index of the token in the answer), so an answer depends on nothing that runs beside
//! it, and can be continued elsewhere. Nothing sorts the vocabulary.

use super::misuse;
use super::philox::philox4x32;
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

impl Draw<'_> {
    /// Uniform in [0, 1), from nothing but seed, choice and index.
    fn noise(&self) -> f64 {
        let (seed, index) = (self.params.seed, self.answer.len() as u64);
        let counter = [index as u32, (index >> 32) as u32, self.choice, 0];
        let words = philox4x32(counter, [seed as u32, (seed >> 32) as u32]);
        let bits = u64::from(words[0]) << 32 | u64::from(words[1]);
        (bits >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Scratch memory of the sampler, kept from token to token.
#[derive(Debug, Default)]
pub struct Sampler {
    /// Logits after penalties, bias and mask. `[vocab]`
    logits: Vec<f32>,
    /// Tokens still in question.
    candidates: Vec<Candidate>,
    /// How often each token came, while penalties are applied; zero in between. `[vocab]`
    counts: Vec<u32>,
}

/// A token and its score: a logit, or the logarithm of its share of the most likely one's probability.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    token: TokenId,
    score: f32,
}

impl Candidate {
    /// The higher score first; of equal ones the lower token.
    fn order(&self, other: &Self) -> Ordering {
        other.score.total_cmp(&self.score).then(self.token.cmp(&other.token))
    }

    fn weight(&self) -> f64 {
        f64::from(self.score.exp())
    }
}

impl Sampler {
    /// The next token.
    ///
    /// Errors (`Internal`): a logit is not a number, or no token is possible.
    pub fn sample(&mut self, logits: &[f32], draw: &Draw<'_>) -> Result<OutputToken> {
        let params = draw.params;
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        self.penalise(draw);
        self.add_bias(draw);
        let best = best(&self.logits)?;
        let token = if params.temperature < TEMPERATURE_MIN {
            best.token
        } else {
            let bound = self.truncate(params, best.score);
            self.pick(params, best.score, bound, draw.noise())
        };
        Ok(self.report(token, best.score, params.logprobs))
    }

    /// Repetition penalty over prompt and answer; presence and frequency over the answer.
    fn penalise(&mut self, draw: &Draw<'_>) {
        let params = draw.params;
        let repetition = params.repetition_penalty;
        if repetition != 1.0 {
            self.each_distinct(&[draw.prompt, draw.answer], |logit, _| {
                *logit = if *logit > 0.0 { *logit / repetition } else { *logit * repetition };
            });
        }
        if params.presence_penalty != 0.0 || params.frequency_penalty != 0.0 {
            self.each_distinct(&[draw.answer], |logit, count| {
                *logit -= params.presence_penalty + params.frequency_penalty * count as f32;
            });
        }
    }

    /// Calls `change` once for each token in `lists`, with its logit and how often it is there.
    fn each_distinct(&mut self, lists: &[&[TokenId]], change: impl Fn(&mut f32, u32)) {
        let Self { logits, counts, .. } = self;
        counts.resize(logits.len(), 0);
        let tokens = || lists.iter().copied().flatten().map(|token| *token as usize);
        for token in tokens().filter(|token| *token < logits.len()) {
            counts[token] += 1;
        }
        for token in tokens() {
            let Some(count) = counts.get_mut(token).map(std::mem::take) else { continue };
            if count > 0 {
                change(&mut logits[token], count);
            }
        }
    }

    fn add_bias(&mut self, draw: &Draw<'_>) {
        for &(token, bias) in &draw.params.logit_bias {
            if let Some(logit) = self.logits.get_mut(token as usize) {
                *logit += bias;
            }
        }
        if draw.answer.len() < draw.params.min_tokens as usize {
            for &token in draw.end_ids {
                if let Some(logit) = self.logits.get_mut(token as usize) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
    }

    /// The last candidate that min-p, top-k and top-p keep; `None` when they keep all.
    fn truncate(&mut self, params: &SamplingParams, max: f32) -> Option<Candidate> {
        let all_kept = params.min_p <= 0.0 && params.top_k == 0 && params.top_p >= 1.0;
        if all_kept {
            return None;
        }
        self.gather(params.temperature, max, |candidate| {
            f64::from(params.min_p) <= candidate.weight()
        });
        let kept = &mut self.candidates;
        let top_k = params.top_k as usize;
        if top_k > 0 && top_k < kept.len() {
            kept.select_nth_unstable_by(top_k - 1, Candidate::order);
            kept.truncate(top_k);
        }
        if params.top_p < 1.0 {
            let total: f64 = kept.iter().map(Candidate::weight).sum();
            let n_kept = nucleus_len(kept, total * f64::from(params.top_p));
            kept.truncate(n_kept);
        }
        kept.iter().copied().max_by(Candidate::order)
    }

    /// Draws among the candidates up to `bound`, in order of token, with `noise` in [0, 1).
    fn pick(
        &mut self,
        params: &SamplingParams,
        max: f32,
        bound: Option<Candidate>,
        noise: f64,
    ) -> TokenId {
        self.gather(params.temperature, max, |candidate| {
            bound.is_none_or(|bound| candidate.order(&bound) != Ordering::Greater)
        });
        let total: f64 = self.candidates.iter().map(Candidate::weight).sum();
        let mut left = noise * total;
        let mut last_possible = 0;
        for candidate in &self.candidates {
            let weight = candidate.weight();
            if weight > 0.0 {
                last_possible = candidate.token;
                left -= weight;
            }
            if left < 0.0 {
                break;
            }
        }
        last_possible
    }

    /// Fills `candidates` with the possible tokens that `keep` takes, in order of token.
    fn gather(&mut self, temperature: f32, max: f32, keep: impl Fn(&Candidate) -> bool) {
        let Self { logits, candidates, .. } = self;
        let scaled = logits
            .iter()
            .zip(0..)
            .map(|(logit, token)| Candidate { token, score: (logit - max) / temperature });
        candidates.clear();
        candidates.extend(scaled.filter(|one| one.score > f32::NEG_INFINITY && keep(one)));
    }

    /// The token with as many log probabilities as `n_top` asks for.
    fn report(&mut self, token: TokenId, max: f32, n_top: Option<u32>) -> OutputToken {
        let Some(n_top) = n_top else {
            return OutputToken { token, logprob: None, top_logprobs: Vec::new() };
        };
        let total: f64 = self.logits.iter().map(|logit| f64::from((logit - max).exp())).sum();
        let norm = f64::from(max) + total.ln();
        let logprob = |logit: f32| (f64::from(logit) - norm) as f32;
        self.gather(1.0, 0.0, |_| true);
        let top = &mut self.candidates;
        let n_top = (n_top as usize).min(top.len());
        if n_top > 0 && n_top < top.len() {
            top.select_nth_unstable_by(n_top - 1, Candidate::order);
        }
        top.truncate(n_top);
        top.sort_unstable_by(Candidate::order);
        let named = |one: &Candidate| Logprob { token: one.token, logprob: logprob(one.score) };
        OutputToken {
            token,
            logprob: Some(logprob(self.logits[token as usize])),
            top_logprobs: self.candidates.iter().map(named).collect(),
        }
    }
}

/// The highest logit, of equal ones that of the lowest token.
fn best(logits: &[f32]) -> Result<Candidate> {
    let mut best = Candidate { token: 0, score: f32::NEG_INFINITY };
    let mut has_nan = false;
    for (&score, token) in logits.iter().zip(0..) {
        has_nan |= score.is_nan();
        if score > best.score {
            best = Candidate { token, score };
        }
    }
    if has_nan || !best.score.is_finite() {
        return Err(misuse("sample", "the model's logits are not finite numbers"));
    }
    Ok(best)
}

/// The least number of candidates, highest first, whose weights reach `goal`; they are moved to the
/// front. At least one, where there is any.
fn nucleus_len(candidates: &mut [Candidate], goal: f64) -> usize {
    let (mut start, mut end) = (0, candidates.len());
    let mut reached = 0.0;
    // Always: the first `start` are too few and the highest; the first `end` are enough.
    while end - start > 1 {
        let half = (end - start) / 2;
        candidates[start..end].select_nth_unstable_by(half, Candidate::order);
        let upper: f64 = candidates[start..start + half].iter().map(Candidate::weight).sum();
        if reached + upper >= goal {
            end = start + half;
        } else {
            start += half;
            reached += upper;
        }
    }
    end
}

#[cfg(test)]
#[path = "sample_tests.rs"]
mod tests;
