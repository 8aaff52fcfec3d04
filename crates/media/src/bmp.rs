//! Windows bitmaps without compression: 1, 4, 8, 24 and 32 bits a pixel.

use crate::pixels::palette;
use crate::{Format, Size};
use types::Result;

/// Bytes of the file header, which says where the pixels begin.
const FILE_HEADER: usize = 14;

/// Length of the oldest picture header; its colours have three bytes, all others' have four.
const CORE_HEADER: usize = 12;

/// Length of the picture header that all younger ones begin with.
const INFO_HEADER: usize = 40;

/// What the headers say.
struct BmpHeader<'a> {
    size: Size,
    is_top_down: bool,
    n_bits: usize,
    compression: u32,
    /// The file from the colour table or the bit masks on.
    rest: &'a [u8],
    /// Bytes of a colour in the table, and colours that it says it has.
    colour_bytes: usize,
    n_colours: usize,
    pixels: &'a [u8],
}

/// The size.
pub(crate) fn size(bytes: &[u8]) -> Result<Size> {
    Ok(BmpHeader::parse(bytes).ok_or_else(|| Format::Bmp.broken())?.size)
}

/// Decodes to RGB.
pub(crate) fn decode(bytes: &[u8]) -> Result<Vec<u8>> {
    let broken = || Format::Bmp.broken();
    let header = BmpHeader::parse(bytes).ok_or_else(broken)?;
    header.check()?;
    let width = header.size.width as usize;
    let stride = (width * header.n_bits).div_ceil(32) * 4;
    let height = header.size.height as usize;
    let rows = header.pixels.get(..stride * height).ok_or_else(broken)?;
    let colours = header.colours();
    let mut rgb = Vec::with_capacity(header.size.n_bytes());
    for y in 0..height {
        let row = if header.is_top_down { y } else { height - 1 - y };
        let row = &rows[row * stride..][..stride];
        rgb.extend((0..width).flat_map(|x| pixel(row, x, header.n_bits, &colours)));
    }
    Ok(rgb)
}

impl<'a> BmpHeader<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let pixels = u32_at(bytes, 10)? as usize;
        let picture = bytes.get(FILE_HEADER..)?;
        let length = u32_at(picture, 0)? as usize;
        let pixels = bytes.get(pixels..).unwrap_or_default();
        if length == CORE_HEADER {
            return Some(Self {
                size: Size::new(u16_at(picture, 4)?.into(), u16_at(picture, 6)?.into()),
                is_top_down: false,
                n_bits: u16_at(picture, 10)?.into(),
                compression: 0,
                rest: picture.get(length..)?,
                colour_bytes: 3,
                n_colours: 0,
                pixels,
            });
        }
        if length < INFO_HEADER {
            return None;
        }
        let height = u32_at(picture, 8)?.cast_signed();
        Some(Self {
            size: Size::new(u32_at(picture, 4)?, height.unsigned_abs()),
            is_top_down: height < 0,
            n_bits: u16_at(picture, 14)?.into(),
            compression: u32_at(picture, 16)?,
            // Bit masks lie where they lie in the longer headers.
            rest: picture.get(length..)?,
            colour_bytes: 4,
            n_colours: u32_at(picture, 32)? as usize,
            pixels,
        })
    }

    fn check(&self) -> Result<()> {
        match (self.n_bits, self.compression) {
            (1 | 4 | 8 | 24 | 32, 0) => Ok(()),
            _ => Err(Format::Bmp.unsupported("compression or another depth than 1, 4, 8, 24, 32")),
        }
    }

    fn colours(&self) -> Vec<[u8; 3]> {
        if self.n_bits > 8 {
            return Vec::new();
        }
        let n_colours = if self.n_colours == 0 { 1 << self.n_bits } else { self.n_colours };
        let table = self.rest.chunks_exact(self.colour_bytes).take(n_colours.min(256));
        palette(&table.flat_map(|bgr| [bgr[2], bgr[1], bgr[0]]).collect::<Vec<_>>())
    }
}

/// The colour of column `x`.
fn pixel(row: &[u8], x: usize, n_bits: usize, colours: &[[u8; 3]]) -> [u8; 3] {
    if n_bits > 8 {
        let start = x * n_bits / 8;
        return [row[start + 2], row[start + 1], row[start]];
    }
    let shift = 8 - n_bits - x * n_bits % 8;
    let mask = (1_u16 << n_bits) - 1;
    colours[usize::from(u16::from(row[x * n_bits / 8] >> shift) & mask)]
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
