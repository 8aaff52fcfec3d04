//! Bits of entropy-coded data, most significant first, stuffing removed.

use super::broken;
use super::segments::marker;
use types::Result;

/// Reads bits up to the next marker; past it come zeros, which are counted.
pub(super) struct Bits<'a> {
    data: &'a [u8],
    pos: usize,
    /// Unread bits, at the top of the word; zeros below them.
    word: u64,
    n_bits: u32,
    /// Zero bits that were put in because the data had ended.
    n_made_up: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self { data, pos: 0, word: 0, n_bits: 0, n_made_up: 0 }
    }

    /// The next 16 bits, not consumed; at least 32 are there afterwards.
    #[inline(always)]
    pub(super) fn peek(&mut self) -> u32 {
        if self.n_bits < 32 {
            self.fill();
        }
        (self.word >> 48) as u32
    }

    /// Consumes `n` bits, at most 16, of those that [`Self::peek`] saw.
    #[inline(always)]
    pub(super) fn consume(&mut self, n: u32) {
        self.word <<= n;
        self.n_bits -= n;
    }

    /// Reads `n` bits, 0 to 16.
    #[inline(always)]
    pub(super) fn take(&mut self, n: u32) -> u32 {
        if self.n_bits < 32 {
            self.fill();
        }
        self.take_filled(n)
    }

    /// [`Self::take`] of bits that a `peek` made sure of.
    #[inline(always)]
    fn take_filled(&mut self, n: u32) -> u32 {
        let value = (self.word >> 32 >> (32 - n)) as u32;
        self.consume(n);
        value
    }

    /// Reads an `n`-bit number of the JPEG kind, of bits that a `peek` made sure of: codes of the
    /// lower half are negative.
    #[inline(always)]
    pub(super) fn signed_filled(&mut self, n: u32) -> i32 {
        let value = self.take_filled(n) as i32;
        if n == 0 || value >> (n - 1) != 0 { value } else { value - (1 << n) + 1 }
    }

    /// Fails if more was read than there was.
    pub(super) fn check(&self) -> Result<()> {
        if self.n_made_up > self.n_bits { Err(broken()) } else { Ok(()) }
    }

    /// Goes past the restart marker that must follow; `count` is how many came before it.
    pub(super) fn restart(&mut self, count: usize) -> Result<()> {
        self.check()?;
        let expected = marker::RST0 + (count % 8) as u8;
        let at = self.end();
        if self.data.get(at..at + 2) != Some(&[0xFF, expected]) {
            return Err(broken());
        }
        *self = Self { pos: at + 2, ..Self::new(self.data) };
        Ok(())
    }

    /// Where the data end: the index of the next marker's 0xFF, fill bytes skipped. Reading never
    /// passes a marker, so it lies ahead.
    pub(super) fn end(&self) -> usize {
        let mut at = self.pos;
        while at < self.data.len() && !self.is_marker(at) {
            at += 1;
        }
        at
    }

    /// Whether a marker stands at `at`; a fill byte is none.
    fn is_marker(&self, at: usize) -> bool {
        self.data[at] == 0xFF && !matches!(self.data.get(at + 1), Some(0 | 0xFF))
    }

    /// Brings more than 32 bits into the word.
    fn fill(&mut self) {
        if let Some(next) = self.data[self.pos..].first_chunk() {
            let next = u64::from_be_bytes(*next);
            if !has_ff(next) {
                let n_bytes = (64 - self.n_bits) / 8;
                self.word |= next >> self.n_bits;
                self.n_bits += n_bytes * 8;
                self.pos += n_bytes as usize;
                // Bits of a byte that did not fit whole must not stay.
                self.word &= u64::MAX << (64 - self.n_bits);
                return;
            }
        }
        while self.n_bits <= 56 {
            self.fill_byte();
        }
    }

    fn fill_byte(&mut self) {
        let byte = match (self.data.get(self.pos), self.data.get(self.pos + 1)) {
            (Some(0xFF), Some(0)) => {
                self.pos += 2;
                0xFF
            }
            (Some(&byte), _) if byte != 0xFF => {
                self.pos += 1;
                byte
            }
            _ => {
                self.n_made_up += 8;
                0
            }
        };
        self.word |= u64::from(byte) << (56 - self.n_bits);
        self.n_bits += 8;
    }
}

/// Whether any of the eight bytes is 0xFF.
fn has_ff(word: u64) -> bool {
    let zeros = !word;
    zeros.wrapping_sub(0x0101_0101_0101_0101) & !zeros & 0x8080_8080_8080_8080 != 0
}
