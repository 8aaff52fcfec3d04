//! Choosing the next token from a row of logits.
//!
//! Contract: `logits` is f32 `[vocab]`; the result is one token, with log probabilities if asked
//! for. In this order: penalties and bias → no end before `min_tokens` → temperature → min-p →
//! top-k → top-p → draw. Log probabilities are those before temperature. All noise is a function of
//! (seed, choice, index of the token in the answer), so an answer depends on nothing that runs
//! beside it, and can be continued elsewhere. Nothing sorts the vocabulary.

#[path = "sample_cuda.rs"]
mod cuda;
#[path = "sample_cuda_rows.rs"]
mod cuda_rows;

pub use cuda::{DeviceSampler, Sampled};
pub use cuda_rows::{SampleBatch, SampleParts, SampleRows};

use super::misuse;
use super::philox::philox4x32;
use std::cmp::Ordering;
use types::output::{Logprob, OutputToken};
use types::sampling::SamplingParams;
use types::{Error, Result, TokenId};

/// Temperatures below this are greedy: dividing by them would overflow.
const TEMPERATURE_MIN: f32 = 1e-5;
/// Bits of noise: as many as an f64 holds.
const NOISE_BITS: u32 = 53;

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
        self.noise_bits() as f64 / (1_u64 << NOISE_BITS) as f64
    }

    /// The noise times 2^[`NOISE_BITS`], a whole number.
    fn noise_bits(&self) -> u64 {
        let (seed, index) = (self.params.seed, self.answer.len() as u64);
        let counter = [index as u32, (index >> 32) as u32, self.choice, 0];
        let words = philox4x32(counter, [seed as u32, (seed >> 32) as u32]);
        (u64::from(words[0]) << 32 | u64::from(words[1])) >> (u64::BITS - NOISE_BITS)
    }
}

/// Scratch memory of the sampler, kept from token to token.
#[derive(Debug, Default)]
pub struct Sampler {
    /// Logits after penalties, bias and mask. `[vocab]`
    logits: Vec<f32>,
    /// Each token's share of the most likely one's probability, after temperature. `[vocab]`
    weights: Vec<f32>,
    /// Tokens still in question.
    candidates: Vec<Candidate>,
    /// How often each token came, while penalties are applied; zero in between. `[vocab]`
    counts: Vec<u32>,
}

/// A token, its logit and its weight.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    token: TokenId,
    logit: f32,
    weight: f32,
}

impl Candidate {
    /// The higher logit first; of equal ones the lower token.
    fn order(&self, other: &Self) -> Ordering {
        other.logit.total_cmp(&self.logit).then(self.token.cmp(&other.token))
    }

    fn weight(&self) -> f64 {
        f64::from(self.weight)
    }
}

impl Sampler {
    /// The next token.
    ///
    /// Errors (`Internal`): a logit is not a number, or no token is possible.
    pub fn sample(&mut self, logits: &[f32], draw: &Draw<'_>) -> Result<OutputToken> {
        self.sample_with(logits, draw, draw.noise())
    }

    fn sample_with(&mut self, logits: &[f32], draw: &Draw<'_>, noise: f64) -> Result<OutputToken> {
        let params = draw.params;
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        self.penalise(draw);
        self.add_bias(draw);
        let (best, max) = best(&self.logits)?;
        let token = if params.temperature < TEMPERATURE_MIN {
            best
        } else {
            let weight = |logit: &f32| ((logit - max) / params.temperature).exp();
            self.weights.clear();
            self.weights.extend(self.logits.iter().map(weight));
            let bound = self.truncate(params);
            self.pick(bound, noise)
        };
        Ok(self.report(token, max, params.logprobs))
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
    fn truncate(&mut self, params: &SamplingParams) -> Option<Candidate> {
        if params.min_p <= 0.0 && params.top_k == 0 && params.top_p >= 1.0 {
            return None;
        }
        let possible = self.weights.iter().copied().filter(|weight| *weight >= params.min_p);
        let mut total: f64 = possible.map(f64::from).sum();
        // Tokens this unlikely are half of 1 - top_p at most, all together: the nucleus lies above.
        let tail = 0.5 * (1.0 - f64::from(params.top_p)) * total / self.weights.len() as f64;
        let least = if params.top_k == 0 { params.min_p.max(tail as f32) } else { params.min_p };
        self.gather(|one| one.weight >= least);
        let kept = &mut self.candidates;
        let top_k = params.top_k as usize;
        if top_k > 0 {
            if top_k < kept.len() {
                kept.select_nth_unstable_by(top_k - 1, Candidate::order);
                kept.truncate(top_k);
            }
            total = kept.iter().map(Candidate::weight).sum();
        }
        if params.top_p < 1.0 {
            let n_kept = nucleus_len(kept, total * f64::from(params.top_p));
            kept.truncate(n_kept);
        }
        kept.iter().copied().max_by(Candidate::order)
    }

    /// Draws among the tokens up to `bound`, in order of token, with `noise` in [0, 1).
    fn pick(&mut self, bound: Option<Candidate>, noise: f64) -> TokenId {
        if let Some(bound) = bound {
            self.gather(|one| one.order(&bound) != Ordering::Greater);
        } else {
            self.gather(|_| true);
        }
        let total: f64 = self.candidates.iter().map(Candidate::weight).sum();
        let mut left = noise * total;
        let mut last_possible = 0;
        for candidate in self.candidates.iter().filter(|one| one.weight > 0.0) {
            last_possible = candidate.token;
            left -= candidate.weight();
            if left < 0.0 {
                break;
            }
        }
        last_possible
    }

    /// Fills `candidates` with the possible tokens that `keep` takes, in order of token.
    fn gather(&mut self, keep: impl Fn(&Candidate) -> bool) {
        let Self { logits, weights, candidates, .. } = self;
        let all = logits.iter().zip(weights.iter()).zip(0..);
        let all = all.map(|((&logit, &weight), token)| Candidate { token, logit, weight });
        candidates.clear();
        candidates.extend(all.filter(|one| one.logit > f32::NEG_INFINITY && keep(one)));
    }

    /// The token with as many log probabilities as `n_top` asks for.
    fn report(&mut self, token: TokenId, max: f32, n_top: Option<u32>) -> OutputToken {
        let Some(n_top) = n_top else {
            return OutputToken { token, logprob: None, top_logprobs: Vec::new() };
        };
        self.weights.clear();
        self.weights.extend(self.logits.iter().map(|logit| (logit - max).exp()));
        let total: f64 = self.weights.iter().copied().map(f64::from).sum();
        let norm = f64::from(max) + total.ln();
        let logprob = |logit: f32| (f64::from(logit) - norm) as f32;
        self.gather(|_| true);
        let top = &mut self.candidates;
        let n_top = (n_top as usize).min(top.len());
        if n_top > 0 && n_top < top.len() {
            top.select_nth_unstable_by(n_top - 1, Candidate::order);
        }
        top.truncate(n_top);
        top.sort_unstable_by(Candidate::order);
        let named = |one: &Candidate| Logprob { token: one.token, logprob: logprob(one.logit) };
        OutputToken {
            token,
            logprob: Some(logprob(self.logits[token as usize])),
            top_logprobs: self.candidates.iter().map(named).collect(),
        }
    }
}

/// The token with the highest logit, of equal ones the lowest, and that logit.
fn best(logits: &[f32]) -> Result<(TokenId, f32)> {
    let (mut best, mut max) = (0, f32::NEG_INFINITY);
    let mut has_nan = false;
    for (&logit, token) in logits.iter().zip(0..) {
        has_nan |= logit.is_nan();
        if logit > max {
            (best, max) = (token, logit);
        }
    }
    if has_nan || !max.is_finite() { Err(not_finite()) } else { Ok((best, max)) }
}

fn not_finite() -> Error {
    misuse("sample", "the model's logits are not finite numbers")
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
#[path = "sample_cuda_tests.rs"]
mod cuda_tests;
#[cfg(test)]
#[path = "sample_tests.rs"]
mod tests;
