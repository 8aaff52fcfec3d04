//! One row: its requests, its times, and whether the answers are the same each time.

use crate::ceilings::Random;
use crate::progress::Progress;
use crate::rig::{Ask, Rig, Round};
use crate::rows::{Load, Row};
use media::{Image, Size};
use models::ModelSpec;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use types::media::MediaKind;
use types::{Error, Result, TokenId};

/// Tokens before and behind a picture.
const TOKENS_BEFORE: usize = 10;
const TOKENS_BEHIND: usize = 9;

/// What a row came to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Measured {
    pub(crate) row: Row,
    pub(crate) load: Load,
    /// In the row's unit, one for each run.
    pub(crate) values: Vec<f64>,
    /// Pictures that the tower saw beside it a second, one figure for each run.
    pub(crate) pictures_per_s: Vec<f64>,
    pub(crate) answers: Agreement,
}

/// Tokens that were the same again, of those compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Agreement {
    pub(crate) n_same: usize,
    pub(crate) n: usize,
}

impl Agreement {
    /// Adds answers that should begin alike; a shorter one is compared as far as it goes.
    pub(crate) fn add(&mut self, expected: &[Vec<TokenId>], found: &[Vec<TokenId>]) {
        for (expected, found) in expected.iter().zip(found) {
            self.n += expected.len().min(found.len());
            self.n_same += expected.iter().zip(found).filter(|(a, b)| a == b).count();
        }
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.n_same == self.n && self.n > 0
    }
}

/// Random prompts and pictures, the same at every call.
pub(crate) struct Questions<'a> {
    pub(crate) spec: &'a ModelSpec,
}

impl Questions<'_> {
    /// `n` prompts of `len` tokens.
    pub(crate) fn texts(&self, n: usize, len: usize, n_tokens: u32) -> Vec<Ask> {
        let mut random = Random::new(len as u64);
        let ask = |_| Ask { prompt: self.tokens(&mut random, len), picture: None, n_tokens };
        (0..n).map(ask).collect()
    }

    /// `n` prompts with a picture each.
    ///
    /// Errors: the model takes no pictures.
    pub(crate) fn pictures(&self, n: usize, side: u32, n_tokens: u32) -> Result<Vec<Ask>> {
        let placeholder = self.spec.placeholders.iter().find(|it| it.kind == MediaKind::Image);
        let token = placeholder.ok_or_else(|| Error::invalid("the model takes no pictures"))?.token;
        let mut random = Random::new(u64::from(side));
        let mut ask = |_| {
            let before = self.tokens(&mut random, TOKENS_BEFORE);
            let behind = self.tokens(&mut random, TOKENS_BEHIND);
            let prompt = [before, vec![token], behind].concat();
            Ok(Ask { prompt, picture: Some(Arc::new(noise(&mut random, side)?)), n_tokens })
        };
        (0..n).map(&mut ask).collect()
    }

    fn tokens(&self, random: &mut Random, n: usize) -> Vec<TokenId> {
        let is_special = |token: &TokenId| {
            self.spec.placeholders.iter().any(|it| it.token == *token)
                || self.spec.eos_token_ids.contains(token)
        };
        let vocab = self.spec.vocab_size as u64;
        let draw = || ((random.next() >> 16) % vocab) as TokenId;
        std::iter::repeat_with(draw).filter(|token| !is_special(token)).take(n).collect()
    }
}

fn noise(random: &mut Random, side: u32) -> Result<Image> {
    let n_bytes = side as usize * side as usize * 3;
    let rgb: Vec<u8> = std::iter::repeat_with(|| random.next().to_le_bytes())
        .take(n_bytes.div_ceil(8))
        .flatten()
        .take(n_bytes)
        .collect();
    Image::new(Size::new(side, side), rgb)
}

/// What a request of a row brings.
///
/// Errors: the model takes no such picture.
pub(crate) fn load(row: &Row, plan: impl FnOnce(u32) -> Result<models::MediaPlan>) -> Result<Load> {
    let side = match *row {
        Row::Decode { context, .. } => return Ok(Load { prompt_len: context, n_patches: 0 }),
        Row::Prefill { len, .. } => return Ok(Load { prompt_len: len, n_patches: 0 }),
        Row::Image { side } | Row::Images { side, .. } => side,
    };
    let plan = plan(side)?;
    let prompt_len = TOKENS_BEFORE + TOKENS_BEHIND + plan.n_tokens as usize;
    Ok(Load { prompt_len, n_patches: plan.grid.n_patches() })
}

/// Runs a row once unseen and then `n_runs` times; a time counts beside its answers.
///
/// Errors: a request failed.
pub(crate) fn measure(
    rig: &Rig,
    questions: &Questions<'_>,
    (row, load): (Row, Load),
    n_runs: usize,
    progress: &mut Progress,
) -> Result<Measured> {
    let mut asked = Asked::new(rig, questions, row)?;
    let mut answers = Agreement::default();
    let mut values = Vec::with_capacity(n_runs);
    let mut pictures_per_s = Vec::new();
    for run in 0..=n_runs {
        progress.at(&format!("{row}, run {run} of {n_runs}"));
        let (value, rate) = asked.run_beside(&mut answers)?;
        if run > 0 {
            values.push(value);
            pictures_per_s.extend(rate);
        }
        progress.step();
    }
    Ok(Measured { row, load, values, pictures_per_s, answers })
}

/// The requests of a row, and what was answered first.
struct Asked<'a> {
    rig: &'a Rig,
    row: Row,
    asks: Vec<Ask>,
    /// The same with shorter answers, for the time that is taken off.
    shorter: Vec<Ask>,
    /// The picture that the tower sees meanwhile.
    beside: Option<Ask>,
    first_answers: Option<Vec<Vec<TokenId>>>,
}

impl<'a> Asked<'a> {
    fn new(rig: &'a Rig, questions: &Questions<'_>, row: Row) -> Result<Self> {
        let (asks, shorter) = match row {
            Row::Decode { batch, context, from, to, .. } => {
                (questions.texts(batch, context, to), questions.texts(batch, context, from))
            }
            Row::Prefill { batch, len } => (questions.texts(batch, len, 1), Vec::new()),
            Row::Image { side } => (questions.pictures(1, side, 1)?, Vec::new()),
            Row::Images { n, side, n_tokens } => {
                (questions.pictures(n, side, n_tokens)?, Vec::new())
            }
        };
        let beside = match row {
            Row::Decode { beside: Some(side), .. } => questions.pictures(1, side, 1)?.pop(),
            _ => None,
        };
        Ok(Self { rig, row, asks, shorter, beside, first_answers: None })
    }

    /// [`Self::run`], and how many pictures a second the tower saw meanwhile.
    fn run_beside(&mut self, answers: &mut Agreement) -> Result<(f64, Option<f64>)> {
        let Some(ask) = self.beside.clone() else { return Ok((self.run(answers)?, None)) };
        let (rig, is_over, began) = (self.rig, AtomicBool::new(false), Instant::now());
        std::thread::scope(|scope| {
            let shown = scope.spawn(|| rig.show_until(&ask, &is_over));
            let value = self.run(answers);
            is_over.store(true, Ordering::Relaxed);
            let n_shown = shown.join().map_err(|_| Error::internal("nobody shows pictures"))??;
            Ok((value?, Some(n_shown as f64 / began.elapsed().as_secs_f64())))
        })
    }

    /// The row's figure, in its unit.
    fn run(&mut self, answers: &mut Agreement) -> Result<f64> {
        let round = match self.row {
            Row::Decode { .. } | Row::Prefill { .. } => self.rig.at_once(&self.asks)?,
            Row::Image { .. } | Row::Images { .. } => self.rig.with_pictures(&self.asks)?,
        };
        self.compare(&round, answers);
        let seconds = round.elapsed.as_secs_f64();
        match self.row {
            Row::Decode { from, to, .. } => {
                let shorter = self.rig.at_once(&self.shorter)?;
                self.compare(&shorter, answers);
                let further = seconds - shorter.elapsed.as_secs_f64();
                Ok(further * 1e3 / f64::from(to - from))
            }
            Row::Prefill { .. } | Row::Image { .. } => Ok(seconds * 1e3),
            Row::Images { n, .. } => Ok(n as f64 / seconds),
        }
    }

    fn compare(&mut self, round: &Round, answers: &mut Agreement) {
        match &self.first_answers {
            Some(first) => answers.add(first, &round.answers),
            None => self.first_answers = Some(round.answers.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_counts_tokens_as_far_as_both_go() {
        let mut agreement = Agreement::default();
        assert!(!agreement.is_complete());
        agreement.add(&[vec![1, 2, 3], vec![4]], &[vec![1, 2], vec![4]]);
        assert!(agreement.is_complete());
        agreement.add(&[vec![1, 2, 3]], &[vec![1, 9, 3]]);
        assert_eq!(agreement, Agreement { n_same: 5, n: 6 });
    }
}
