//! PNG: the `png` crate unpacks the rows, the samples are converted here as Pillow does.

use crate::exif::Orientation;
use crate::image::CHANNELS;
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
    Ok(convert(reader.info(), packed, n_row_bytes))
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
fn convert(info: &Info<'_>, packed: Vec<u8>, n_row_bytes: usize) -> Pixels {
    match (info.color_type, info.bit_depth) {
        (ColorType::Grayscale, BitDepth::Sixteen) => deep_grey(info, &packed),
        (ColorType::Grayscale, _) => grey(info, &one_byte_each(info, packed, n_row_bytes)),
        (ColorType::Indexed, _) => indexed(info, &one_byte_each(info, packed, n_row_bytes)),
        (ColorType::Rgb, _) => Pixels::opaque(one_byte_each(info, packed, n_row_bytes)),
        (ColorType::GrayscaleAlpha, _) => {
            let samples = one_byte_each(info, packed, n_row_bytes);
            let pixels = samples.as_chunks::<2>().0;
            let levels = pixels.iter().map(|pixel| pixel[0]);
            Pixels {
                rgb: repeated(levels),
                alpha: Some(pixels.iter().map(|pixel| pixel[1]).collect()),
            }
        }
        (ColorType::Rgba, _) => Pixels::from_rgba(&one_byte_each(info, packed, n_row_bytes)),
    }
}

/// Sixteen-bit grey is clipped, not scaled: that is what Pillow does, and so what models have seen.
fn deep_grey(info: &Info<'_>, packed: &[u8]) -> Pixels {
    let samples = || packed.as_chunks::<2>().0.iter().map(|bytes| u16::from_be_bytes(*bytes));
    let clear = clear_level(info);
    Pixels {
        rgb: repeated(samples().map(|sample| sample.min(255) as u8)),
        alpha: clear.map(|clear| samples().map(|sample| opacity(sample == clear)).collect()),
    }
}

/// Grey levels, one of which may be transparent.
fn grey(info: &Info<'_>, levels: &[u8]) -> Pixels {
    let clear = clear_level(info).map(|sample| scaled(sample as u8, info.bit_depth));
    Pixels {
        rgb: repeated(levels.iter().copied()),
        alpha: clear.map(|clear| levels.iter().map(|&level| opacity(level == clear)).collect()),
    }
}

fn indexed(info: &Info<'_>, indices: &[u8]) -> Pixels {
    let colours = palette(info.palette.as_deref().unwrap_or_default());
    let opacities = info.trns.as_deref();
    let mut rgb = Vec::with_capacity(indices.len() * CHANNELS);
    indices.iter().for_each(|&idx| rgb.extend_from_slice(&colours[usize::from(idx)]));
    let alpha = opacities.map(|opacities| {
        let opacity = |&idx: &u8| opacities.get(usize::from(idx)).copied().unwrap_or(255);
        indices.iter().map(opacity).collect()
    });
    Pixels { rgb, alpha }
}

/// Every sample as one byte: of sixteen bits the upper half; of fewer than eight the level scaled
/// to 255, or the index as it is.
fn one_byte_each(info: &Info<'_>, packed: Vec<u8>, n_row_bytes: usize) -> Vec<u8> {
    match info.bit_depth {
        BitDepth::Eight => packed,
        BitDepth::Sixteen => packed.as_chunks::<2>().0.iter().map(|bytes| bytes[0]).collect(),
        depth => {
            let n_bits = depth as usize;
            let width = info.width as usize;
            let is_index = info.color_type == ColorType::Indexed;
            let mut out = Vec::with_capacity(width * info.height as usize);
            for row in packed.chunks_exact(n_row_bytes) {
                out.extend((0..width).map(|x| {
                    let shift = 8 - n_bits - x * n_bits % 8;
                    let sample = row[x * n_bits / 8] >> shift & ((1 << n_bits) - 1);
                    if is_index { sample } else { scaled(sample, depth) }
                }));
            }
            out
        }
    }
}

/// A level of few bits scaled to 8: its bits repeated.
fn scaled(level: u8, depth: BitDepth) -> u8 {
    match depth {
        BitDepth::One => level * 0xFF,
        BitDepth::Two => level * 0x55,
        BitDepth::Four => level * 0x11,
        BitDepth::Eight | BitDepth::Sixteen => level,
    }
}

/// The grey level that is transparent.
fn clear_level(info: &Info<'_>) -> Option<u16> {
    let bytes = info.trns.as_deref()?.first_chunk()?;
    let mask = ((1_u32 << info.bit_depth as u32) - 1) as u16;
    Some(u16::from_be_bytes(*bytes) & mask)
}

fn opacity(is_clear: bool) -> u8 {
    if is_clear { 0 } else { 255 }
}

/// Each level for red, green and blue.
fn repeated(levels: impl ExactSizeIterator<Item = u8>) -> Vec<u8> {
    let mut rgb = Vec::with_capacity(levels.len() * CHANNELS);
    levels.for_each(|level| rgb.extend_from_slice(&[level; CHANNELS]));
    rgb
}
