//! A pretence of a model: set costs, set tokens, no weights; real scheduling, real KV blocks.
//!
//! Each KV slot gets a stamp of its token and place, and each step checks the stamps of all that it
//! would read: a block that was lost, moved wrongly or overwritten fails the request.

use crate::runner::{StepWork, known};
use models::{ModelSpec, PreparedMedia};
use scheduler::SeqStep;
use std::cell::Cell;
use std::num::NonZeroUsize;
use std::time::Duration;
use tensor::ops::copy_blocks;
use tensor::ops::sample::Draw;
use tensor::{Device, KvPool, SlabRange};
use types::output::{Logprob, OutputToken};
use types::{Error, Result, TokenId};

/// A pretended model.
#[derive(Debug, Clone)]
pub struct MockModel {
    /// The shapes and limits to pretend.
    pub spec: ModelSpec,
    /// What it answers.
    pub script: MockScript,
    /// Tokens before the end token; `None` never ends by itself.
    pub answer_len: Option<usize>,
    /// What it costs.
    pub cost: MockCost,
    /// After so many steps and runs of the tower its device is lost; `None` for never.
    pub steps_max: Option<u64>,
}

/// The tokens of a pretended answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MockScript {
    /// These tokens over and over; choice `k` begins with token `k`.
    Cycle(Vec<TokenId>),
    /// The prompt's text over and over, without its placeholders.
    Echo,
}

/// Time that pretended work takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MockCost {
    /// Of a step, whatever is in it.
    pub step: Duration,
    /// Of each sequence that gets a token in a step.
    pub seq: Duration,
    /// Of each prompt token of a step.
    pub prompt_token: Duration,
    /// Of each patch of an encoder batch.
    pub patch: Duration,
}

/// A pretended model at work.
pub(crate) struct MockRunner {
    mock: MockModel,
    device: Device,
    kv: KvPool,
    /// The tokens of the step before.
    sampled: Vec<TokenId>,
    /// Steps and runs of the tower so far.
    n_steps: Cell<u64>,
}

impl MockRunner {
    pub(crate) fn new(mock: MockModel, kv: KvPool) -> Self {
        let device = Device::cpu(NonZeroUsize::MIN);
        Self { mock, device, kv, sampled: Vec::new(), n_steps: Cell::new(0) }
    }

    /// Errors: the pretended device is lost.
    pub(crate) fn synchronize(&self) -> Result<()> {
        match self.mock.steps_max {
            Some(max) if self.n_steps.get() > max => {
                Err(Error::internal(format!("it was to pretend so after {max} steps")))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn begin_step(&self) -> Result<()> {
        self.n_steps.update(|n_steps| n_steps + 1);
        self.synchronize()
    }

    /// Zeros, after the time that the patches cost.
    pub(crate) fn encode(
        &self,
        media: &[&PreparedMedia],
        places: &mut [&mut SlabRange],
    ) -> Result<()> {
        self.begin_step()?;
        let n_patches: usize = media.iter().map(|one| one.plan.grid.n_patches()).sum();
        pause(self.mock.cost.patch * n_patches as u32);
        places.iter_mut().for_each(|place| place.as_mut_slice::<u8>().fill(0));
        Ok(())
    }

    pub(crate) fn step(&mut self, work: &StepWork<'_>) -> Result<Vec<Result<OutputToken>>> {
        self.begin_step()?;
        let copies: Vec<_> = work.batch.copies.iter().map(|copy| (copy.from, copy.to)).collect();
        copy_blocks(&self.device, &mut self.kv, &copies)?;
        let mut intact = Vec::with_capacity(work.batch.seqs.len());
        for step in &work.batch.seqs {
            let seq = work.scheduler.sequence(step.rank);
            let tokens = seq.map_or(&[][..], |seq| seq.tokens());
            intact.push(self.read(step, tokens));
            self.write(step);
        }
        pause(self.cost(work));
        let draws = work.draws()?.into_iter();
        let tokens = draws.map(|(idx, draw)| intact[idx].clone().map(|()| self.answer(&draw)));
        let tokens: Vec<_> = tokens.collect();
        self.sampled = known(&tokens);
        Ok(tokens)
    }

    fn cost(&self, work: &StepWork<'_>) -> Duration {
        let cost = &self.mock.cost;
        let n_samples = work.batch.n_samples() as u32;
        let n_prompt = (work.batch.n_rows() as u32).saturating_sub(n_samples);
        cost.step + cost.seq * n_samples + cost.prompt_token * n_prompt
    }

    /// The next token of the script.
    fn answer(&self, draw: &Draw<'_>) -> OutputToken {
        let idx = draw.answer.len();
        let at_end = self.mock.answer_len.is_some_and(|len| idx >= len);
        let may_end = idx >= draw.params.min_tokens as usize && !draw.params.ignore_eos;
        let end = self.mock.spec.eos_token_ids.first().filter(|_| at_end && may_end);
        let token = end.copied().unwrap_or_else(|| self.script_token(draw, idx));
        let logprob = draw.params.logprobs.map(|_| 0.0);
        let n_top = draw.params.logprobs.unwrap_or(0).min(1) as usize;
        let top_logprobs = vec![Logprob { token, logprob: 0.0 }; n_top];
        OutputToken { token, logprob, top_logprobs }
    }

    fn script_token(&self, draw: &Draw<'_>, idx: usize) -> TokenId {
        match &self.mock.script {
            MockScript::Cycle(tokens) if tokens.is_empty() => 0,
            MockScript::Cycle(tokens) => tokens[(idx + draw.choice as usize) % tokens.len()],
            MockScript::Echo => {
                let is_text = |token: &&TokenId| {
                    self.mock.spec.placeholders.iter().all(|place| place.token != **token)
                };
                let text: Vec<TokenId> = draw.prompt.iter().filter(is_text).copied().collect();
                text.get(idx % text.len().max(1)).copied().unwrap_or(0)
            }
        }
    }

    /// Checks the stamps of all tokens before the step's, block by block.
    fn read(&self, step: &SeqStep, tokens: &[TokenId]) -> Result<()> {
        let size = self.kv.layout.block_size;
        let read = &tokens[..step.start_pos.min(tokens.len())];
        for (block_idx, tokens) in read.chunks(size).enumerate() {
            let start = block_idx * size;
            let Some(first) = self.slot(step, start) else { continue };
            // SAFETY: a block has room for one stamp per token, and no one writes this one now.
            let found = unsafe { std::slice::from_raw_parts(first, tokens.len()) };
            let is_wrong = |(pos, (token, found)): (usize, (&TokenId, &u64))| {
                (*found != stamp(*token, pos)).then_some(pos)
            };
            if let Some(pos) = (start..).zip(tokens.iter().zip(found)).find_map(is_wrong) {
                return Err(Error::internal(format!("the KV of token {pos} is not its own")));
            }
        }
        Ok(())
    }

    fn write(&mut self, step: &SeqStep) {
        let carried = step.carried.and_then(|sample| self.sampled.get(sample as usize)).copied();
        for (pos, token) in (step.start_pos..).zip(&step.tokens) {
            // Only a row that stands alone has a token of the step before.
            let token = carried.unwrap_or(*token);
            if let Some(slot) = self.slot(step, pos) {
                // SAFETY: the slot lies in a block that this sequence alone may write.
                unsafe { slot.write(stamp(token, pos)) };
            }
        }
    }

    /// Where the stamp of a position is kept; `None` when blocks are too small for stamps.
    fn slot(&self, step: &SeqStep, pos: usize) -> Option<*mut u64> {
        let size = self.kv.layout.block_size;
        if self.kv.layout.block_bytes() < size * size_of::<u64>() {
            return None;
        }
        let block = block_address(&self.kv, step.block_table[pos / size]).cast::<u64>();
        // SAFETY: a block has room for one stamp per token, as just checked.
        Some(unsafe { block.add(pos % size) })
    }
}

/// A number that says which token is where; never zero, as memory is at first.
fn stamp(token: TokenId, pos: usize) -> u64 {
    (u64::from(token) << 32 | pos as u64) ^ 0x9E37_79B9_7F4A_7C15
}

/// Address of the first byte of a block.
fn block_address(kv: &KvPool, block: u32) -> *mut u8 {
    let block = block as usize;
    assert!(block < kv.n_blocks, "block {block} is outside the pool of {}", kv.n_blocks);
    // SAFETY: the block lies inside the arena, as just checked.
    unsafe { kv.arena.base().add(block * kv.layout.block_bytes()) }
}

fn pause(time: Duration) {
    if !time.is_zero() {
        std::thread::sleep(time);
    }
}
