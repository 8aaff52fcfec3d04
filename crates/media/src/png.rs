//! PNG: the `png` crate unpacks the rows, the samples are converted here as Pillow does.

use crate::exif::Orientation;
use crate::pixels::{Pixels, palette};
use crate::{Format, Size};
use ::png::{BitDepth, ColorType, Decoder, Info, Limits, Transformations};
use std::io::Cursor;
use types::Result;

/// Bytes of signature and of the length, name and checksum around each chunk's data.
const SIGNATURE: usize = 8;
const LENGTH_AND_NAME: usize = 8;
const CHECKSUM: usize = 4;

/// Working memory of the decoder beside the pixels: rows, palette, profile.
const DECODER_BYTES: usize = 16 << 20;

/// Size and orientation.
pub(crate) fn header(bytes: &[u8]) -> Result<(Size, Orientation)> {
    let mut chunks = Chunks { rest: &bytes[SIGNATURE..] };
    let (name, data) = chunks.next().ok_or_else(|| Format::Png.broken())?;
    let Some(([w0, w1, w2, w3, h0, h1, h2, h3], _)) = data.split_first_chunk() else {
        return Err(Format::Png.broken());
    };
    if name != b"IHDR" {
        return Err(Format::Png.broken());
    }
    let width = u32::from_be_bytes([*w0, *w1, *w2, *w3]);
    let height = u32::from_be_bytes([*h0, *h1, *h2, *h3]);
    Ok((Size::new(width, height), orientation(chunks)))
}

/// Decodes the default picture, which is an animation's first frame.
pub(crate) fn decode(bytes: &[u8], size: Size) -> Result<Pixels> {
    // Sixteen bits of red, green, blue and alpha at most.
    let limits = Limits { bytes: size.n_bytes() * 3 + DECODER_BYTES };
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), limits);
    decoder.set_transformations(Transformations::IDENTITY);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let broken = || Format::Png.broken();
    let mut reader = decoder.read_info().map_err(|_| broken())?;
    let n_bytes = reader.output_buffer_size().filter(|_| reader.info().size() == size.into());
    let mut packed = vec![0; n_bytes.ok_or_else(broken)?];
    reader.next_frame(&mut packed).map_err(|_| broken())?;
    let n_row_bytes = reader.output_line_size(size.width).ok_or_else(broken)?;
    Ok(convert(reader.info(), packed.chunks_exact(n_row_bytes)))
}

impl From<Size> for (u32, u32) {
    fn from(size: Size) -> Self {
        (size.width, size.height)
    }
}

/// The chunks of a file: name and data.
struct Chunks<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Chunks<'a> {
    type Item = (&'a [u8; 4], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (length, rest) = self.rest.split_first_chunk::<4>()?;
        let (name, _) = rest.split_first_chunk::<4>()?;
        let length = u32::from_be_bytes(*length) as usize;
        let data = self.rest.get(LENGTH_AND_NAME..)?.get(..length)?;
        self.rest = self.rest.get(LENGTH_AND_NAME + length + CHECKSUM..)?;
        Some((name, data))
    }
}

/// The orientation that any chunk names, before the pixels or behind them.
fn orientation(chunks: Chunks<'_>) -> Orientation {
    let mut from_xmp = None;
    for (name, data) in chunks {
        match name {
            b"eXIf" => {
                if let Some(named) = Orientation::from_exif(data) {
                    return named;
                }
            }
            b"iTXt" if data.starts_with(b"XML:com.adobe.xmp\0") => {
                from_xmp = from_xmp.or_else(|| Orientation::from_xmp(data));
            }
            _ => {}
        }
    }
    from_xmp.unwrap_or_default()
}

/// Samples of every colour type and depth to 8-bit RGB and opacity.
fn convert<'a>(info: &Info<'_>, rows: impl Iterator<Item = &'a [u8]>) -> Pixels {
    let width = info.width as usize;
    let samples = rows.flat_map(|row| unpacked(row, info.bit_depth, width * n_samples(info)));
    match info.color_type {
        ColorType::Grayscale => grey(info, samples),
        ColorType::Indexed => indexed(info, samples),
        ColorType::Rgb => Pixels::opaque(samples.map(|sample| to_byte(info, sample)).collect()),
        ColorType::GrayscaleAlpha => {
            let bytes: Vec<u8> = samples.map(|sample| to_byte(info, sample)).collect();
            let pixels = bytes.as_chunks::<2>().0;
            Pixels {
                rgb: pixels.iter().flat_map(|pixel| [pixel[0]; 3]).collect(),
                alpha: Some(pixels.iter().map(|pixel| pixel[1]).collect()),
            }
        }
        ColorType::Rgba => {
            let bytes: Vec<u8> = samples.map(|sample| to_byte(info, sample)).collect();
            Pixels::from_rgba(&bytes)
        }
    }
}

/// Grey without alpha, but perhaps with one transparent level. Sixteen bits are clipped, not
/// scaled: that is what Pillow does, and so what models have been shown.
fn grey(info: &Info<'_>, samples: impl Iterator<Item = u16>) -> Pixels {
    let samples: Vec<u16> = samples.collect();
    let level = |&sample: &u16| match info.bit_depth {
        BitDepth::Sixteen => sample.min(255) as u8,
        _ => to_byte(info, sample),
    };
    let clear = info.trns.as_deref().and_then(|bytes| bytes.first_chunk());
    let clear = clear.map(|bytes| u16::from_be_bytes(*bytes));
    Pixels {
        rgb: samples.iter().map(level).flat_map(|level| [level; 3]).collect(),
        alpha: clear.map(|clear| opacity(samples.iter(), |&&sample| sample == clear)),
    }
}

fn indexed(info: &Info<'_>, samples: impl Iterator<Item = u16>) -> Pixels {
    let colours = palette(info.palette.as_deref().unwrap_or_default());
    let indices: Vec<u8> = samples.map(|sample| sample as u8).collect();
    let opacities = info.trns.as_deref();
    let opacity_of = |idx: &u8| opacities.and_then(|all| all.get(usize::from(*idx)));
    Pixels {
        rgb: indices.iter().flat_map(|&idx| colours[usize::from(idx)]).collect(),
        alpha: opacities
            .map(|_| indices.iter().map(|idx| *opacity_of(idx).unwrap_or(&255)).collect()),
    }
}

fn opacity<T>(items: impl Iterator<Item = T>, is_clear: impl Fn(&T) -> bool) -> Vec<u8> {
    items.map(|item| if is_clear(&item) { 0 } else { 255 }).collect()
}

fn n_samples(info: &Info<'_>) -> usize {
    info.color_type.samples()
}

/// The samples of a row.
fn unpacked(row: &[u8], depth: BitDepth, n_samples: usize) -> impl Iterator<Item = u16> {
    let n_bits = depth as usize;
    (0..n_samples).map(move |idx| match depth {
        BitDepth::Sixteen => u16::from_be_bytes([row[2 * idx], row[2 * idx + 1]]),
        BitDepth::Eight => row[idx].into(),
        _ => {
            let shift = 8 - n_bits - idx * n_bits % 8;
            u16::from(row[idx * n_bits / 8] >> shift) & ((1 << n_bits) - 1)
        }
    })
}

/// A sample scaled to 8 bits: of sixteen the upper half, of fewer than eight repeated.
fn to_byte(info: &Info<'_>, sample: u16) -> u8 {
    match info.bit_depth {
        BitDepth::Sixteen => (sample >> 8) as u8,
        BitDepth::Eight => sample as u8,
        BitDepth::Four => sample as u8 * 0x11,
        BitDepth::Two => sample as u8 * 0x55,
        BitDepth::One => sample as u8 * 0xFF,
    }
}
