//! A scan: its header, and the walk over its blocks.

use super::bits::Bits;
use super::frame::{BLOCK, Coding, Component, Frame, N_COEFFICIENTS};
use super::progressive::Progressive;
use super::sequential::Sequential;
use super::tables::Tables;
use super::{broken, unsupported};
use types::Result;

/// Most blocks in an interleaved unit, by the standard.
const MAX_UNIT_BLOCKS: usize = 10;

/// A scan's header.
pub(super) struct Scan {
    pub(super) components: Vec<ScanComponent>,
    /// First and last coefficient sent, in zigzag order.
    pub(super) first: usize,
    pub(super) last: usize,
    /// Lowest bit sent earlier, `None` if nothing was, and lowest bit sent now.
    pub(super) high: Option<u32>,
    pub(super) low: u32,
}

/// A component of a scan: its index in the frame and those of its tables.
#[derive(Clone, Copy)]
pub(super) struct ScanComponent {
    pub(super) idx: usize,
    pub(super) dc_idx: usize,
    pub(super) ac_idx: usize,
}

/// Where a block is: its component's place in the scan, and its row and column of blocks.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) part: usize,
    pub(super) row: usize,
    pub(super) column: usize,
}

/// How the blocks of one scan are read.
pub(super) trait ReadBlock {
    /// Reads the block at `place` into `component`.
    fn read(&mut self, bits: &mut Bits<'_>, component: &mut Component, place: Place) -> Result<()>;

    /// Forgets what is predicted from earlier blocks.
    fn restart(&mut self);
}

/// Decodes the scan of header `payload` from `data`; returns how much of `data` it took.
pub(super) fn decode(
    frame: &mut Frame,
    tables: &Tables,
    payload: &[u8],
    data: &[u8],
) -> Result<usize> {
    let scan = Scan::parse(frame, payload)?;
    for part in &scan.components {
        let component = &mut frame.components[part.idx];
        if component.quantisation.is_none() {
            component.quantisation = Some(tables.quantisation(component.quantisation_idx)?);
        }
    }
    let mut bits = Bits::new(data);
    match frame.coding {
        Coding::Sequential => {
            let reader = Sequential::new(&scan, tables)?;
            scan.walk(frame, tables.restart_interval, reader, &mut bits)?;
        }
        Coding::Progressive => {
            let reader = Progressive::new(&scan, tables)?;
            scan.walk(frame, tables.restart_interval, reader, &mut bits)?;
        }
    }
    bits.check()?;
    Ok(bits.end())
}

impl Scan {
    fn parse(frame: &Frame, payload: &[u8]) -> Result<Self> {
        let (&n, rest) = payload.split_first().ok_or_else(broken)?;
        let n = usize::from(n);
        if !(1..=4).contains(&n) || rest.len() != 2 * n + 3 {
            return Err(broken());
        }
        let (parts, band) = rest.split_at(2 * n);
        let parts = parts.as_chunks::<2>().0.iter().map(|part| ScanComponent::parse(frame, part));
        let components: Vec<_> = parts.collect::<Result<_>>()?;
        let repeated = (1..n).any(|k| components[..k].iter().any(|c| c.idx == components[k].idx));
        let n_blocks: usize = components.iter().map(|part| part.n_unit_blocks(frame)).sum();
        if repeated || n > 1 && n_blocks > MAX_UNIT_BLOCKS {
            return Err(broken());
        }
        let (high, low) = (u32::from(band[2] >> 4), u32::from(band[2] & 15));
        let high = (high != 0).then_some(high);
        let scan = Self { components, first: band[0].into(), last: band[1].into(), high, low };
        if frame.coding == Coding::Progressive {
            scan.check_progression()?
        }
        Ok(scan)
    }

    /// Refuses bands and bits that the standard forbids.
    fn check_progression(&self) -> Result<()> {
        let is_dc = self.first == 0;
        let band_is_right = if is_dc {
            self.last == 0
        } else {
            self.components.len() == 1 && self.first <= self.last && self.last < N_COEFFICIENTS
        };
        let bits_are_right = self.low <= 13 && self.high.is_none_or(|high| high == self.low + 1);
        if band_is_right && bits_are_right { Ok(()) } else { Err(broken()) }
    }

    /// Reads all blocks of the scan.
    fn walk(
        &self,
        frame: &mut Frame,
        restart_interval: usize,
        mut reader: impl ReadBlock,
        bits: &mut Bits<'_>,
    ) -> Result<()> {
        let (units_per_row, n_unit_rows) = self.units(frame);
        for unit in 0..units_per_row * n_unit_rows {
            if restart_interval != 0 && unit != 0 && unit % restart_interval == 0 {
                bits.restart(unit / restart_interval - 1)?;
                reader.restart();
            }
            self.read_unit(frame, (unit / units_per_row, unit % units_per_row), &mut reader, bits)?;
            bits.check()?;
        }
        Ok(())
    }

    /// Units in a row and rows of units: interleaved ones, or single blocks where there is but one
    /// component, and then only those that the picture touches.
    fn units(&self, frame: &Frame) -> (usize, usize) {
        match self.components[..] {
            [part] => {
                let component = &frame.components[part.idx];
                (component.width.div_ceil(BLOCK), component.height.div_ceil(BLOCK))
            }
            _ => frame.units(),
        }
    }

    #[inline(always)]
    fn read_unit(
        &self,
        frame: &mut Frame,
        (unit_row, unit_column): (usize, usize),
        reader: &mut impl ReadBlock,
        bits: &mut Bits<'_>,
    ) -> Result<()> {
        let is_single = self.components.len() == 1;
        for (part, ScanComponent { idx, .. }) in self.components.iter().enumerate() {
            let component = &mut frame.components[*idx];
            let (h, v) = if is_single { (1, 1) } else { (component.h, component.v) };
            for row in unit_row * v..(unit_row + 1) * v {
                for column in unit_column * h..(unit_column + 1) * h {
                    reader.read(bits, component, Place { part, row, column })?;
                }
            }
        }
        Ok(())
    }
}

impl ScanComponent {
    fn parse(frame: &Frame, &[id, tables]: &[u8; 2]) -> Result<Self> {
        let idx = frame.components.iter().position(|component| component.id == id);
        let (dc_idx, ac_idx) = (usize::from(tables >> 4), usize::from(tables & 15));
        if dc_idx > 3 || ac_idx > 3 {
            return Err(unsupported("arithmetic coding"));
        }
        Ok(Self { idx: idx.ok_or_else(broken)?, dc_idx, ac_idx })
    }

    fn n_unit_blocks(&self, frame: &Frame) -> usize {
        let component = &frame.components[self.idx];
        component.h * component.v
    }
}
