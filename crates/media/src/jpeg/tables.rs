//! Tables that segments define and scans use.

use super::broken;
use super::frame::N_COEFFICIENTS;
use super::huffman::Huffman;
use super::segments::marker;
use types::Result;

/// Tables of each class.
const N_TABLES: usize = 4;

/// The natural index of each coefficient in the order in which they are sent; what lies beyond
/// the last (a run that is too long) falls on the last, as everywhere.
pub(super) const ZIGZAG: [u8; N_COEFFICIENTS + 16] = zigzag();

/// A quantisation table in natural order.
pub(super) type Quantisation = Box<[u16; N_COEFFICIENTS]>;

/// The tables as they stand at some place of the file.
#[derive(Default)]
pub(super) struct Tables {
    quantisation: [Option<Quantisation>; N_TABLES],
    dc: [Option<Huffman>; N_TABLES],
    ac: [Option<Huffman>; N_TABLES],
    /// Units between restart markers; 0 is never.
    pub(super) restart_interval: usize,
}

impl Tables {
    /// Takes over what a segment defines; segments that define no table are passed by.
    pub(super) fn read(&mut self, marker: u8, payload: &[u8]) -> Result<()> {
        match marker {
            marker::DQT => self.read_quantisation(payload),
            marker::DHT => self.read_huffman(payload),
            marker::DRI => {
                let interval = payload.try_into().map_err(|_| broken())?;
                self.restart_interval = u16::from_be_bytes(interval).into();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A copy of a quantisation table.
    pub(super) fn quantisation(&self, idx: usize) -> Result<Quantisation> {
        self.quantisation[idx].clone().ok_or_else(broken)
    }

    /// The codes of DC differences.
    pub(super) fn dc(&self, idx: usize) -> Result<&Huffman> {
        self.dc[idx].as_ref().ok_or_else(broken)
    }

    /// The codes of the other coefficients.
    pub(super) fn ac(&self, idx: usize) -> Result<&Huffman> {
        self.ac[idx].as_ref().ok_or_else(broken)
    }

    fn read_quantisation(&mut self, mut rest: &[u8]) -> Result<()> {
        while let Some((&head, body)) = rest.split_first() {
            let (is_wide, idx) = (head >> 4 != 0, usize::from(head & 15));
            let n_bytes = if is_wide { 2 * N_COEFFICIENTS } else { N_COEFFICIENTS };
            let (values, after) = body.split_at_checked(n_bytes).ok_or_else(broken)?;
            let mut table = Box::new([0; N_COEFFICIENTS]);
            for (&place, k) in ZIGZAG.iter().zip(0..N_COEFFICIENTS) {
                table[usize::from(place)] = if is_wide {
                    u16::from_be_bytes([values[2 * k], values[2 * k + 1]])
                } else {
                    values[k].into()
                };
            }
            *self.quantisation.get_mut(idx).ok_or_else(broken)? = Some(table);
            rest = after;
        }
        Ok(())
    }

    fn read_huffman(&mut self, mut rest: &[u8]) -> Result<()> {
        while let Some((&head, body)) = rest.split_first() {
            let (counts, body) = body.split_first_chunk::<16>().ok_or_else(broken)?;
            let n_symbols = counts.iter().map(|&count| usize::from(count)).sum();
            let (symbols, after) = body.split_at_checked(n_symbols).ok_or_else(broken)?;
            let class = if head >> 4 == 0 { &mut self.dc } else { &mut self.ac };
            let table = class.get_mut(usize::from(head & 15)).ok_or_else(broken)?;
            *table = Some(Huffman::new(counts, symbols)?);
            rest = after;
        }
        Ok(())
    }
}

/// Walks the diagonals of the block, turning at its edges.
const fn zigzag() -> [u8; N_COEFFICIENTS + 16] {
    let mut order = [(N_COEFFICIENTS - 1) as u8; N_COEFFICIENTS + 16];
    let (mut row, mut column) = (0, 0);
    let mut k = 0;
    while k < N_COEFFICIENTS {
        order[k] = (row * 8 + column) as u8;
        let goes_up = (row + column) % 2 == 0;
        if goes_up && column == 7 || !goes_up && row < 7 && column == 0 {
            row += 1;
        } else if goes_up && row == 0 || !goes_up && row == 7 {
            column += 1;
        } else if goes_up {
            (row, column) = (row - 1, column + 1);
        } else {
            (row, column) = (row + 1, column - 1);
        }
        k += 1;
    }
    order
}
