//! Blocks of progressive scans: a band of coefficients, a range of bits.

use super::bits::Bits;
use super::frame::Component;
use super::huffman::Huffman;
use super::idct::Block;
use super::scan::{Place, ReadBlock, Scan};
use super::sequential::dc_difference;
use super::tables::{Tables, ZIGZAG};
use types::Result;

/// Reads what one scan adds to the coefficients.
pub(super) struct Progressive<'a> {
    pass: Pass<'a>,
    first: usize,
    last: usize,
    /// Lowest bit that this scan sends.
    low: u32,
}

/// The four kinds of scans.
enum Pass<'a> {
    /// The DC coefficients' upper bits; for each component its codes and the value before.
    Dc(Vec<(&'a Huffman, i16)>),
    /// One more bit of the DC coefficients.
    DcBit,
    /// A band's upper bits.
    Ac(&'a Huffman, Run),
    /// One more bit of a band.
    AcBit(&'a Huffman, Run),
}

/// How many of the blocks ahead have nothing more in the band.
type Run = u32;

impl<'a> Progressive<'a> {
    pub(super) fn new(scan: &Scan, tables: &'a Tables) -> Result<Self> {
        let pass = match (scan.first == 0, scan.high) {
            (true, None) => {
                let parts = scan.components.iter().map(|part| Ok((tables.dc(part.dc_idx)?, 0)));
                Pass::Dc(parts.collect::<Result<_>>()?)
            }
            (true, Some(_)) => Pass::DcBit,
            (false, None) => Pass::Ac(tables.ac(scan.components[0].ac_idx)?, 0),
            (false, Some(_)) => Pass::AcBit(tables.ac(scan.components[0].ac_idx)?, 0),
        };
        Ok(Self { pass, first: scan.first, last: scan.last, low: scan.low })
    }
}

impl ReadBlock for Progressive<'_> {
    fn read(&mut self, bits: &mut Bits<'_>, component: &mut Component, place: Place) -> Result<()> {
        let idx = place.row * component.blocks_per_row + place.column;
        let block = &mut component.coefficients[idx];
        let band = Band { first: self.first, last: self.last, low: self.low };
        match &mut self.pass {
            Pass::Dc(parts) => {
                let (codes, predicted) = &mut parts[place.part];
                *predicted = predicted.wrapping_add(dc_difference(bits, codes)?);
                block[0] = *predicted << self.low;
            }
            Pass::DcBit => block[0] |= (bits.take(1) as i16) << self.low,
            Pass::Ac(codes, run) => band.read(bits, codes, run, block)?,
            Pass::AcBit(codes, run) => band.refine(bits, codes, run, block)?,
        }
        Ok(())
    }

    fn restart(&mut self) {
        match &mut self.pass {
            Pass::Dc(parts) => parts.iter_mut().for_each(|(_, predicted)| *predicted = 0),
            Pass::DcBit => {}
            Pass::Ac(_, run) | Pass::AcBit(_, run) => *run = 0,
        }
    }
}

/// The coefficients that a scan sends, and their lowest bit.
struct Band {
    first: usize,
    last: usize,
    low: u32,
}

impl Band {
    /// Reads the upper bits of a block's band.
    fn read(
        &self,
        bits: &mut Bits<'_>,
        codes: &Huffman,
        run: &mut Run,
        block: &mut Block,
    ) -> Result<()> {
        if *run > 0 {
            *run -= 1;
            return Ok(());
        }
        let mut k = self.first;
        while k <= self.last {
            let symbol = codes.read(bits)?;
            let (zeros, n_bits) = (u32::from(symbol >> 4), u32::from(symbol & 15));
            if n_bits == 0 {
                if zeros != 15 {
                    // This block and that many more minus one end here.
                    *run = (1 << zeros) + bits.take(zeros) - 1;
                    return Ok(());
                }
                k += 16;
                continue;
            }
            k += zeros as usize;
            block[usize::from(ZIGZAG[k])] = (bits.signed_filled(n_bits) << self.low) as i16;
            k += 1;
        }
        Ok(())
    }

    /// Reads one more bit of a block's band: new coefficients of ±1, and between them a
    /// correction bit for each that was not zero before.
    fn refine(
        &self,
        bits: &mut Bits<'_>,
        codes: &Huffman,
        run: &mut Run,
        block: &mut Block,
    ) -> Result<()> {
        let mut k = self.first;
        while *run == 0 && k <= self.last {
            let symbol = codes.read(bits)?;
            let (zeros, is_new) = (u32::from(symbol >> 4), symbol & 15 != 0);
            let mut value = 0;
            if is_new {
                value = if bits.take(1) == 1 { 1 << self.low } else { -1 << self.low };
            } else if zeros != 15 {
                *run = (1 << zeros) + bits.take(zeros);
                break;
            }
            k = self.correct(bits, block, k, zeros as usize);
            if is_new && k <= self.last {
                block[usize::from(ZIGZAG[k])] = value;
            }
            k += 1;
        }
        if *run > 0 {
            *run -= 1;
            self.correct(bits, block, k, usize::MAX);
        }
        Ok(())
    }

    /// Corrects what is not zero from `k` on, until `zeros` zeros were passed and another one
    /// stands there; returns its index.
    fn correct(&self, bits: &mut Bits<'_>, block: &mut Block, mut k: usize, zeros: usize) -> usize {
        let mut n_zeros_left = zeros;
        while k <= self.last {
            let coefficient = &mut block[usize::from(ZIGZAG[k])];
            if *coefficient == 0 {
                if n_zeros_left == 0 {
                    return k;
                }
                n_zeros_left -= 1;
            } else if bits.take(1) == 1 && *coefficient & (1 << self.low) == 0 {
                let step = if *coefficient > 0 { 1 << self.low } else { -1 << self.low };
                *coefficient = coefficient.wrapping_add(step);
            }
            k += 1;
        }
        k
    }
}
