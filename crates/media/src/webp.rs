//! WebP: lossy, lossless, and an animation's first frame.

use crate::exif::Orientation;
use crate::pixels::Pixels;
use crate::{Format, Size};
use image_webp::WebPDecoder;
use std::io::Cursor;
use types::Result;

/// Bytes of `RIFF`, a length, and `WEBP`.
const SIGNATURE: usize = 12;

/// Working memory of the decoder beside the pixels.
const DECODER_BYTES: usize = 16 << 20;

/// Size and orientation.
pub(crate) fn header(bytes: &[u8]) -> Result<(Size, Orientation)> {
    let chunks = || Chunks { rest: &bytes[SIGNATURE..] };
    let broken = || Format::WebP.broken();
    let (name, data) = chunks().next().ok_or_else(broken)?;
    let size = if name == b"VP8X" { canvas_size(data) } else { stream_size(name, data) };
    let size = size.ok_or_else(broken)?;
    // The decoder makes room for what a stream says before it compares that with the canvas.
    let mut streams = chunks().chain(chunks().filter_map(frame_chunks).flatten());
    let is_larger = |stream: Size| stream.width > size.width || stream.height > size.height;
    if streams.any(|(name, data)| stream_size(name, data).is_some_and(is_larger)) {
        return Err(broken());
    }
    Ok((size, orientation(chunks())))
}

/// Decodes the picture or an animation's first frame.
pub(crate) fn decode(bytes: &[u8], size: Size) -> Result<Pixels> {
    let broken = || Format::WebP.broken();
    let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(|_| broken())?;
    decoder.set_memory_limit(size.n_bytes() + DECODER_BYTES);
    let n_bytes = decoder.output_buffer_size();
    let n_bytes = n_bytes.filter(|_| decoder.dimensions() == size.into()).ok_or_else(broken)?;
    let mut pixels = vec![0; n_bytes];
    if decoder.is_animated() {
        decoder.read_frame(&mut pixels).map_err(|_| broken())?;
    } else {
        decoder.read_image(&mut pixels).map_err(|_| broken())?;
    }
    Ok(if decoder.has_alpha() { Pixels::from_rgba(&pixels) } else { Pixels::opaque(pixels) })
}

/// The chunks of a file: name and data, padded to even lengths. A last one that is cut off is
/// given as far as it goes.
struct Chunks<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Chunks<'a> {
    type Item = (&'a [u8; 4], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, rest) = self.rest.split_first_chunk::<4>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length) as usize;
        let data = &rest[..length.min(rest.len())];
        self.rest = rest.get(length + length % 2..).unwrap_or_default();
        Some((name, data))
    }
}

fn orientation(chunks: Chunks<'_>) -> Orientation {
    let mut from_xmp = None;
    for (name, data) in chunks {
        match name {
            b"EXIF" => {
                if let Some(named) = Orientation::from_exif(data) {
                    return named;
                }
            }
            b"XMP " => from_xmp = from_xmp.or_else(|| Orientation::from_xmp(data)),
            _ => {}
        }
    }
    from_xmp.unwrap_or_default()
}

/// The chunks inside a frame of an animation.
fn frame_chunks<'a>((name, data): (&[u8; 4], &'a [u8])) -> Option<Chunks<'a>> {
    /// Bytes of the frame's place, size, duration and flags.
    const FRAME: usize = 16;
    (name == b"ANMF").then_some(Chunks { rest: data.get(FRAME..)? })
}

/// The size that a stream of pixels names; `None` of other chunks.
fn stream_size(name: &[u8; 4], data: &[u8]) -> Option<Size> {
    match name {
        b"VP8 " => lossy_size(data),
        b"VP8L" => lossless_size(data),
        _ => None,
    }
}

/// The canvas of the extended format: flags, then 24 bits each of width and height, less one.
fn canvas_size(data: &[u8]) -> Option<Size> {
    let &[_, _, _, _, w0, w1, w2, h0, h1, h2] = data.first_chunk()?;
    let width = u32::from_le_bytes([w0, w1, w2, 0]) + 1;
    Some(Size::new(width, u32::from_le_bytes([h0, h1, h2, 0]) + 1))
}

/// A VP8 key frame: three bytes of tag, three of start code, 14 bits each of width and height.
fn lossy_size(data: &[u8]) -> Option<Size> {
    let &[_, _, _, 0x9D, 0x01, 0x2A, w0, w1, h0, h1] = data.first_chunk()? else { return None };
    let width = u16::from_le_bytes([w0, w1]) & 0x3FFF;
    Some(Size::new(width.into(), (u16::from_le_bytes([h0, h1]) & 0x3FFF).into()))
}

/// A VP8L stream: a signature byte, then 14 bits each of width and height, less one.
fn lossless_size(data: &[u8]) -> Option<Size> {
    let &[0x2F, b0, b1, b2, b3] = data.first_chunk()? else { return None };
    let bits = u32::from_le_bytes([b0, b1, b2, b3]);
    Some(Size::new((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1))
}
