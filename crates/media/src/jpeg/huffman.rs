//! Huffman codes: from the table in the file to one look at the next bits.

use super::bits::Bits;
use super::broken;
use types::Result;

/// Codes up to this long are found by one look.
const LOOK_BITS: u32 = 10;

/// Longest code.
const MAX_BITS: usize = 16;

/// The codes of one table.
#[derive(Clone)]
pub(super) struct Huffman {
    /// For the next `LOOK_BITS` bits: length of the code (0: longer than that) and its symbol.
    look: Box<[(u8, u8); 1 << LOOK_BITS]>,
    /// For each length the first code that is longer, left-aligned in 16 bits.
    limits: [u32; MAX_BITS + 1],
    /// For each length: index of a symbol minus its code.
    offsets: [i32; MAX_BITS + 1],
    symbols: Vec<u8>,
}

impl Huffman {
    /// Builds the codes from the number of codes of each length, and the symbols in their order.
    pub(super) fn new(counts: &[u8; MAX_BITS], symbols: &[u8]) -> Result<Self> {
        let mut codes = Self {
            look: vec![(0, 0); 1 << LOOK_BITS].try_into().map_err(|_| broken())?,
            limits: [0; MAX_BITS + 1],
            offsets: [0; MAX_BITS + 1],
            symbols: symbols.to_vec(),
        };
        let mut code = 0_u32;
        let mut idx = 0_usize;
        for length in 1..=MAX_BITS {
            codes.offsets[length] = idx as i32 - code as i32;
            let n_codes = usize::from(counts[length - 1]);
            let these = symbols.get(idx..idx + n_codes).ok_or_else(broken)?;
            if code as usize + n_codes > 1 << length {
                return Err(broken());
            }
            codes.note(length as u32, code, these);
            idx += n_codes;
            code += n_codes as u32;
            codes.limits[length] = code << (MAX_BITS - length);
            code <<= 1;
        }
        Ok(codes)
    }

    /// Reads one symbol; afterwards at least 16 more bits are there for `Bits::take_filled`.
    #[inline(always)]
    pub(super) fn read(&self, bits: &mut Bits<'_>) -> Result<u8> {
        let next = bits.peek();
        let (length, symbol) = self.look[(next >> (MAX_BITS as u32 - LOOK_BITS)) as usize];
        if length != 0 {
            bits.consume(length.into());
            return Ok(symbol);
        }
        self.read_long(bits, next)
    }

    #[cold]
    fn read_long(&self, bits: &mut Bits<'_>, next: u32) -> Result<u8> {
        let mut lengths = LOOK_BITS as usize + 1..=MAX_BITS;
        let length = lengths.find(|&length| next < self.limits[length]).ok_or_else(broken)?;
        bits.consume(length as u32);
        let code = (next >> (MAX_BITS - length)) as i32;
        let idx = code + self.offsets[length];
        self.symbols.get(idx as usize).copied().ok_or_else(broken)
    }

    /// Enters codes of one length, from `code` up, into the table for one look.
    fn note(&mut self, length: u32, code: u32, symbols: &[u8]) {
        if length > LOOK_BITS {
            return;
        }
        let n_each = 1_usize << (LOOK_BITS - length);
        let places = self.look[code as usize * n_each..].chunks_exact_mut(n_each);
        for (place, &symbol) in places.zip(symbols) {
            place.fill((length as u8, symbol));
        }
    }
}
