//! The way of a step's numbers to a GPU: one copy, from page-locked memory, of which one half is
//! filled while the other may still be read.

use std::sync::Arc;
use tensor::cuda::{Cuda, Event, Pinned};
use types::Result;

/// Halves of the page-locked memory.
const N_TURNS: usize = 2;

/// Page-locked memory, and who still reads it.
pub(super) struct Upload {
    cuda: Arc<Cuda>,
    turns: [Turn; N_TURNS],
    next: usize,
}

struct Turn {
    words: Pinned,
    n_words: usize,
    /// The last copy from it.
    sent: Event,
}

impl Upload {
    /// For `n_words` words at a time; more takes more memory when it comes.
    pub(super) fn new(cuda: &Arc<Cuda>, n_words: usize) -> Result<Self> {
        let turn = || {
            let words = Pinned::new(cuda.context(), n_words * size_of::<u32>())?;
            Ok::<_, types::Error>(Turn { words, n_words, sent: Event::new(cuda.context(), false)? })
        };
        Ok(Self { cuda: Arc::clone(cuda), turns: [turn()?, turn()?], next: 0 })
    }

    /// Copies words to the device, in order with everything else there. The address has room for
    /// them.
    pub(super) fn send(&mut self, words: &[u32], to: u64) -> Result<()> {
        let turn = &mut self.turns[self.next];
        self.next = (self.next + 1) % N_TURNS;
        turn.sent.synchronize()?;
        if turn.n_words < words.len() {
            turn.n_words = words.len().next_power_of_two();
            turn.words = Pinned::new(self.cuda.context(), turn.n_words * size_of::<u32>())?;
        }
        let place = &mut turn.words.as_mut_slice::<u32>()[..words.len()];
        place.copy_from_slice(words);
        let n_bytes = size_of_val(words);
        self.cuda.upload(&turn.words.as_slice::<u8>()[..n_bytes], to)?;
        self.cuda.stream().record(&turn.sent)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // Page-locked memory must not be freed under a copy. A failed GPU copies no more.
        for turn in &self.turns {
            let _ = turn.sent.synchronize();
        }
    }
}
