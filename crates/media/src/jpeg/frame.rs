//! The frame: size, components, and where their samples are put.

use super::idct::{self, Block};
use super::segments::Segment;
use super::{broken, unsupported};
use crate::Size;
use types::Result;

/// Samples along a side of a block.
pub(super) const BLOCK: usize = 8;

/// Coefficients of a block.
pub(super) const N_COEFFICIENTS: usize = BLOCK * BLOCK;

/// How the coefficients of a block are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    /// All of a block in one scan.
    Sequential,
    /// In several scans, by bands and by bits.
    Progressive,
}

/// A picture and its components.
pub(super) struct Frame {
    pub(super) size: Size,
    pub(super) coding: Coding,
    pub(super) components: Vec<Component>,
    /// The largest sampling factors of any component.
    pub(super) max_h: usize,
    pub(super) max_v: usize,
}

/// One colour component.
pub(super) struct Component {
    pub(super) id: u8,
    /// Sampling factors: blocks in an interleaved unit, sideways and down.
    pub(super) h: usize,
    pub(super) v: usize,
    pub(super) quantisation_idx: usize,
    /// Its quantisation table in natural order, once its first scan has begun.
    pub(super) quantisation: Option<Box<[u16; N_COEFFICIENTS]>>,
    /// Samples that the picture has of it.
    pub(super) width: usize,
    pub(super) height: usize,
    /// Blocks stored, a whole number of interleaved units.
    pub(super) blocks_per_row: usize,
    pub(super) n_block_rows: usize,
    /// Samples `[n_block_rows * 8, blocks_per_row * 8]`.
    pub(super) samples: Vec<u8>,
    /// Coefficients of every block in natural order; only of progressive frames.
    pub(super) coefficients: Vec<Block>,
}

impl Frame {
    /// Reads a frame header.
    pub(super) fn parse(segment: Segment<'_>) -> Result<Self> {
        let coding = match segment.marker {
            0xC0 | 0xC1 => Coding::Sequential,
            0xC2 => Coding::Progressive,
            0xC9..=0xCB | 0xCD..=0xCF => return Err(unsupported("arithmetic coding")),
            _ => return Err(unsupported("a lossless or hierarchical frame")),
        };
        let (&[precision, y0, y1, x0, x1, n], rest) =
            segment.payload.split_first_chunk().ok_or_else(broken)?;
        let size =
            Size::new(u16::from_be_bytes([x0, x1]).into(), u16::from_be_bytes([y0, y1]).into());
        if precision != 8 {
            return Err(unsupported("samples of more than 8 bits"));
        }
        if !matches!(n, 1 | 3 | 4) {
            return Err(unsupported("neither 1, 3 nor 4 components"));
        }
        if size.n_pixels() == 0 || rest.len() != 3 * usize::from(n) {
            return Err(broken());
        }
        let components = rest.as_chunks::<3>().0.iter().map(Component::parse);
        let components: Vec<_> = components.collect::<Result<_>>()?;
        let mut frame = Self { size, coding, components, max_h: 1, max_v: 1 };
        frame.lay_out()?;
        Ok(frame)
    }

    /// Makes room for samples and coefficients.
    pub(super) fn allocate(&mut self) {
        for component in &mut self.components {
            let n_blocks = component.blocks_per_row * component.n_block_rows;
            component.samples = vec![0; n_blocks * N_COEFFICIENTS];
            if self.coding == Coding::Progressive {
                component.coefficients = vec![[0; N_COEFFICIENTS]; n_blocks];
            }
        }
    }

    /// Interleaved units in a row and rows of units.
    pub(super) fn units(&self) -> (usize, usize) {
        let width = self.size.width as usize;
        let height = self.size.height as usize;
        (width.div_ceil(BLOCK * self.max_h), height.div_ceil(BLOCK * self.max_v))
    }

    /// Whether all samples are there although the file's end was never said.
    pub(super) fn is_complete_without_end(&self) -> bool {
        self.coding == Coding::Sequential && self.is_complete()
    }

    /// Turns the coefficients of a progressive frame into samples.
    ///
    /// Errors: a component never had a scan.
    pub(super) fn finish(&mut self) -> Result<()> {
        if !self.is_complete() {
            return Err(broken());
        }
        self.components.iter_mut().for_each(Component::transform);
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.components.iter().all(|component| component.quantisation.is_some())
    }

    /// Computes the components' sizes from the frame's.
    fn lay_out(&mut self) -> Result<()> {
        self.max_h = self.components.iter().map(|component| component.h).max().unwrap_or(1);
        self.max_v = self.components.iter().map(|component| component.v).max().unwrap_or(1);
        let (max_h, max_v) = (self.max_h, self.max_v);
        let (units_per_row, n_unit_rows) = self.units();
        for component in &mut self.components {
            if max_h % component.h != 0 || max_v % component.v != 0 {
                return Err(unsupported("fractional subsampling"));
            }
            component.width = (self.size.width as usize * component.h).div_ceil(max_h);
            component.height = (self.size.height as usize * component.v).div_ceil(max_v);
            component.blocks_per_row = units_per_row * component.h;
            component.n_block_rows = n_unit_rows * component.v;
        }
        Ok(())
    }
}

impl Component {
    fn parse(&[id, factors, table]: &[u8; 3]) -> Result<Self> {
        let (h, v) = (usize::from(factors >> 4), usize::from(factors & 15));
        if !(1..=4).contains(&h) || !(1..=4).contains(&v) || table > 3 {
            return Err(broken());
        }
        Ok(Self {
            id,
            h,
            v,
            quantisation_idx: table.into(),
            quantisation: None,
            width: 0,
            height: 0,
            blocks_per_row: 0,
            n_block_rows: 0,
            samples: Vec::new(),
            coefficients: Vec::new(),
        })
    }

    /// Samples from one row to the next.
    pub(super) fn stride(&self) -> usize {
        self.blocks_per_row * BLOCK
    }

    /// The real samples of row `row`.
    pub(super) fn row(&self, row: usize) -> &[u8] {
        &self.samples[row * self.stride()..][..self.width]
    }

    /// Puts a block's samples in their place.
    pub(super) fn put(&mut self, block_row: usize, block_column: usize, block: &Block) {
        let Some(quantisation) = &self.quantisation else { return };
        let stride = self.stride();
        let start = block_row * BLOCK * stride + block_column * BLOCK;
        idct::inverse(block, quantisation, &mut self.samples[start..], stride);
    }

    fn transform(&mut self) {
        let coefficients = std::mem::take(&mut self.coefficients);
        for (idx, block) in coefficients.iter().enumerate() {
            self.put(idx / self.blocks_per_row, idx % self.blocks_per_row, block);
        }
    }
}
