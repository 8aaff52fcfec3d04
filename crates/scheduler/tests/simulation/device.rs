//! The pretended device: one number per KV slot, computed only from what the slots before it hold.

use crate::random::mix;
use crate::truth::{Truth, media_content};
use scheduler::{Batch, SeqStep};
use types::TokenId;

pub(crate) struct Device {
    slots: Vec<u64>,
    block_size: usize,
    /// The tokens that the last step sampled.
    sampled: Vec<TokenId>,
}

impl Device {
    pub(crate) fn new(n_blocks: usize, block_size: usize) -> Self {
        Self { slots: vec![0; n_blocks * block_size], block_size, sampled: Vec::new() }
    }

    /// Copies and computes; gives the sampled tokens. Panics where a slot does not hold the truth.
    pub(crate) fn run(&mut self, batch: &Batch, truths: &[Truth]) -> Vec<TokenId> {
        for copy in &batch.copies {
            let from = copy.from as usize * self.block_size;
            let to = copy.to as usize * self.block_size;
            self.slots.copy_within(from..from + self.block_size, to);
        }
        let mut samples = Vec::with_capacity(batch.n_samples());
        for step in &batch.seqs {
            let truth = &truths[step.request.0 as usize];
            let last = if truth.is_failed { self.ruin(step) } else { self.compute(step, truth) };
            let choices = step.first_choice..step.first_choice + step.n_samples;
            let end = step.start_pos + step.tokens.len();
            samples.extend(choices.map(|choice| truth.next_token(choice, end, last)));
        }
        self.sampled.clone_from(&samples);
        samples
    }

    /// The step never ran: nothing was written, and no token is of any use.
    pub(crate) fn skip(&mut self, batch: &Batch) {
        self.sampled = vec![0; batch.n_samples()];
    }

    /// What is computed for a request whose step before never ran is of no use either.
    fn ruin(&mut self, step: &SeqStep) -> u64 {
        for pos in step.start_pos..step.start_pos + step.tokens.len() {
            let slot = self.slot(&step.block_table, pos);
            self.slots[slot] = 0xBAD;
        }
        0xBAD
    }

    /// The token of a row. One that comes from the step before is what it must be there.
    fn token(&self, step: &SeqStep, idx: usize, truth: &Truth) -> TokenId {
        let pos = step.start_pos + idx;
        let Some(sample) = step.carried.filter(|_| idx + 1 == step.tokens.len()) else {
            assert_eq!(step.tokens[idx], truth.token(step.first_choice, pos), "{pos} in {step:?}");
            return step.tokens[idx];
        };
        let before = truth.content(step.first_choice, pos - 1);
        let token = self.sampled[sample as usize];
        assert_eq!(token, truth.next_token(step.first_choice, pos, before), "carried {step:?}");
        token
    }

    /// Reads all slots before the step's, writes the step's; gives the content of the last.
    fn compute(&mut self, step: &SeqStep, truth: &Truth) -> u64 {
        for pos in 0..step.start_pos {
            let slot = self.slot(&step.block_table, pos);
            let (found, expected) = (self.slots[slot], truth.content(step.first_choice, pos));
            assert_eq!(found, expected, "slot of position {pos} in {step:?}");
        }
        let mut last = match step.start_pos.checked_sub(1) {
            Some(pos) => self.slots[self.slot(&step.block_table, pos)],
            None => 0,
        };
        for (idx, pos) in (step.start_pos..step.start_pos + step.tokens.len()).enumerate() {
            let token = self.token(step, idx, truth);
            last = if pos == 0 {
                truth.content(step.first_choice, 0)
            } else {
                mix(last, mix(u64::from(token), media_content(&truth.prompt, pos)))
            };
            let slot = self.slot(&step.block_table, pos);
            self.slots[slot] = last;
        }
        last
    }

    fn slot(&self, block_table: &[u32], pos: usize) -> usize {
        block_table[pos / self.block_size] as usize * self.block_size + pos % self.block_size
    }

    /// A transfer writes one block of a prompt.
    pub(crate) fn receive(&mut self, block_idx: usize, block: u32, truth: &Truth) {
        let start = block_idx * self.block_size;
        for pos in start..(start + self.block_size).min(truth.prompt_len()) {
            let content = truth.content(truth.first_choice, pos);
            self.slots[block as usize * self.block_size + pos - start] = content;
        }
    }

    /// The end of a transfer that nobody waits for any more writes something else.
    pub(crate) fn scribble(&mut self, block: u32) {
        let start = block as usize * self.block_size;
        self.slots[start..start + self.block_size].fill(0xDEAD);
    }

    /// A peer reads exported blocks.
    pub(crate) fn check_export(&self, blocks: &[u32], n_tokens: usize, truth: &Truth) {
        for pos in 0..n_tokens {
            let found = self.slots[self.slot(blocks, pos)];
            assert_eq!(found, truth.content(truth.first_choice, pos), "exported position {pos}");
        }
    }
}
