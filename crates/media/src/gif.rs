//! GIF: the first frame on its screen.

use crate::pixels::{Pixels, grey_ramp, palette};
use crate::{Format, Size};
use ::gif::{ColorOutput, DecodeOptions, Frame, MemoryLimit};
use std::num::NonZeroU64;
use types::Result;

/// Bytes of the signature and of the screen's description.
const SCREEN: usize = 13;

/// Most extension blocks before the first frame.
const MAX_EXTENSIONS: usize = 4096;

/// The screen, enlarged where the first frame is larger.
pub(crate) fn size(bytes: &[u8]) -> Result<Size> {
    first_size(bytes).ok_or_else(|| Format::Gif.broken())
}

/// Decodes the first frame.
pub(crate) fn decode(bytes: &[u8], size: Size) -> Result<Pixels> {
    let broken = || Format::Gif.broken();
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    let n_bytes = NonZeroU64::new(size.n_pixels()).ok_or_else(broken)?;
    options.set_memory_limit(MemoryLimit::Bytes(n_bytes));
    let mut decoder = options.read_info(bytes).map_err(|_| broken())?;
    let global = decoder.global_palette().map(palette);
    let frame = decoder.read_next_frame().map_err(|_| broken())?.ok_or_else(broken)?;
    let colours = frame.palette.as_deref().map(palette).or(global).unwrap_or_else(grey_ramp);
    let indices = on_screen(frame, size).ok_or_else(broken)?;
    let mut rgb = Vec::with_capacity(size.n_bytes());
    indices.iter().for_each(|&idx| rgb.extend_from_slice(&colours[usize::from(idx)]));
    Ok(Pixels {
        rgb,
        alpha: frame
            .transparent
            .map(|clear| indices.iter().map(|&idx| if idx == clear { 0 } else { 255 }).collect()),
    })
}

/// The frame's indices in the middle of a screen of the transparent one, or of the first.
fn on_screen(frame: &Frame<'_>, size: Size) -> Option<Vec<u8>> {
    let (width, height) = (size.width as usize, size.height as usize);
    let mut screen = vec![frame.transparent.unwrap_or(0); width * height];
    let (left, top) = (usize::from(frame.left), usize::from(frame.top));
    let frame_width = usize::from(frame.width);
    let rows = frame.buffer.chunks_exact(frame_width.max(1));
    for (y, row) in rows.take(frame.height.into()).enumerate() {
        let to = screen.get_mut((top + y) * width..)?.get_mut(left..left + frame_width)?;
        to.copy_from_slice(row);
    }
    Some(screen)
}

fn first_size(bytes: &[u8]) -> Option<Size> {
    let screen = bytes.get(..SCREEN)?;
    let mut at = SCREEN + colour_table_bytes(screen[10]);
    for _ in 0..MAX_EXTENSIONS {
        match bytes.get(at)? {
            b',' => {
                let frame = bytes.get(at + 1..at + 9)?;
                let right = u32::from(u16_at(frame, 0)) + u32::from(u16_at(frame, 4));
                let bottom = u32::from(u16_at(frame, 2)) + u32::from(u16_at(frame, 6));
                let width = right.max(u16_at(screen, 6).into());
                return Some(Size::new(width, bottom.max(u16_at(screen, 8).into())));
            }
            b'!' => at = after_sub_blocks(bytes, at + 2)?,
            _ => return None,
        }
    }
    None
}

/// Bytes of the colour table that these flags announce.
fn colour_table_bytes(flags: u8) -> usize {
    if flags & 0x80 != 0 { 3 << ((flags & 7) + 1) } else { 0 }
}

/// Where the chain of sub-blocks that starts at `at` ends.
fn after_sub_blocks(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1 + length;
        if length == 0 {
            return Some(at);
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}
