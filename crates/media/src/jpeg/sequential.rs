//! Blocks of baseline and extended scans: all coefficients at once.

use super::bits::Bits;
use super::broken;
use super::frame::{Component, N_COEFFICIENTS};
use super::huffman::Huffman;
use super::scan::{Place, ReadBlock, Scan};
use super::tables::{Tables, ZIGZAG};
use types::Result;

/// Longest DC difference, in bits.
pub(super) const MAX_DC_BITS: u8 = 15;

/// Reads whole blocks and puts their samples into place.
pub(super) struct Sequential<'a> {
    parts: Vec<Part<'a>>,
}

/// What one component of the scan needs.
struct Part<'a> {
    dc: &'a Huffman,
    ac: &'a Huffman,
    /// The DC coefficient of the block before.
    predicted: i16,
}

impl<'a> Sequential<'a> {
    pub(super) fn new(scan: &Scan, tables: &'a Tables) -> Result<Self> {
        let parts = scan.components.iter().map(|part| {
            Ok(Part { dc: tables.dc(part.dc_idx)?, ac: tables.ac(part.ac_idx)?, predicted: 0 })
        });
        Ok(Self { parts: parts.collect::<Result<_>>()? })
    }
}

impl ReadBlock for Sequential<'_> {
    #[inline(always)]
    fn read(&mut self, bits: &mut Bits<'_>, component: &mut Component, place: Place) -> Result<()> {
        let part = &mut self.parts[place.part];
        let mut block = [0; N_COEFFICIENTS];
        part.predicted = part.predicted.wrapping_add(dc_difference(bits, part.dc)?);
        block[0] = part.predicted;
        let mut k = 1;
        while k < N_COEFFICIENTS {
            let symbol = part.ac.read(bits)?;
            let (run, n_bits) = (usize::from(symbol >> 4), u32::from(symbol & 15));
            if n_bits == 0 {
                if run != 15 {
                    break;
                }
                k += 16;
                continue;
            }
            k += run;
            block[usize::from(ZIGZAG[k])] = bits.signed_filled(n_bits) as i16;
            k += 1;
        }
        component.put(place.row, place.column, &block);
        Ok(())
    }

    fn restart(&mut self) {
        self.parts.iter_mut().for_each(|part| part.predicted = 0);
    }
}

/// Reads the difference of a DC coefficient to the one before.
#[inline(always)]
pub(super) fn dc_difference(bits: &mut Bits<'_>, codes: &Huffman) -> Result<i16> {
    let n_bits = codes.read(bits)?;
    if n_bits > MAX_DC_BITS {
        return Err(broken());
    }
    Ok(bits.signed_filled(n_bits.into()) as i16)
}
