//! JPEG with the very bits of libjpeg-turbo's default decoder, as Pillow uses it.
//!
//! Baseline, extended and progressive Huffman JPEG of 8 bits and 1, 3 or 4 components, restart
//! intervals, any whole-number subsampling. The transform, the chroma interpolation and the colour
//! conversion are integer arithmetic whose rounding the reference fixes, so that there is nothing
//! to differ by. Broken or cut-off data are refused; they are never filled up with grey.
//! Must not know EXIF, limits or other formats.

mod bits;
mod colour;
mod frame;
mod huffman;
mod idct;
mod progressive;
mod scan;
mod segments;
mod sequential;
mod tables;
mod upsample;

use crate::{Format, Size};
use frame::Frame;
use segments::{Segment, Segments, marker};
use types::{Error, Result};

/// What is known before the first scan.
pub(crate) struct JpegHeader<'a> {
    /// The size as stored.
    pub(crate) size: Size,
    /// Payloads of the APP1 segments: EXIF, XMP.
    pub(crate) app1: Vec<&'a [u8]>,
}

/// Most scans of one file: an encoder's dozen, and room for odd ones; each costs a walk over all
/// blocks.
const MAX_SCANS: usize = 128;

/// Reads the segments before the first scan.
pub(crate) fn header(bytes: &[u8]) -> Result<JpegHeader<'_>> {
    let mut app1 = Vec::new();
    let mut size = None;
    let mut segments = Segments::new(bytes);
    loop {
        let segment = segments.next()?;
        match segment.marker {
            marker::APP1 => app1.push(segment.payload),
            marker::SOS | marker::EOI => break,
            other if marker::is_frame(other) => size = Some(Frame::parse(segment)?.size),
            _ => {}
        }
    }
    Ok(JpegHeader { size: size.ok_or_else(broken)?, app1 })
}

/// Decodes to RGB, not yet turned.
pub(crate) fn decode(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut segments = Segments::new(bytes);
    let mut tables = tables::Tables::default();
    let mut colour = colour::Hints::default();
    let mut frame: Option<Frame> = None;
    let mut n_scans = 0;
    loop {
        let segment = match segments.next() {
            // Some files lack their last marker; nothing is missing if all samples are there.
            Err(_) if frame.as_ref().is_some_and(Frame::is_complete_without_end) => break,
            segment => segment?,
        };
        match segment.marker {
            marker::SOS => {
                n_scans += 1;
                if n_scans > MAX_SCANS {
                    return Err(broken());
                }
                let frame = frame.as_mut().ok_or_else(broken)?;
                segments.skip(scan::decode(frame, &tables, segment.payload, segments.rest())?);
            }
            marker::EOI => break,
            other if marker::is_frame(other) => start_frame(&mut frame, segment)?,
            other => {
                tables.read(other, segment.payload)?;
                colour.read(other, segment.payload);
            }
        }
    }
    let mut frame = frame.ok_or_else(broken)?;
    frame.finish()?;
    let space = colour.space(&frame)?;
    Ok(colour::to_rgb(&frame, space))
}

fn start_frame(frame: &mut Option<Frame>, segment: Segment<'_>) -> Result<()> {
    if frame.is_some() {
        return Err(broken());
    }
    let mut started = Frame::parse(segment)?;
    started.allocate();
    *frame = Some(started);
    Ok(())
}

/// The data contradict the format.
fn broken() -> Error {
    Format::Jpeg.broken()
}

/// The data are of a kind of JPEG that hardly anybody writes.
fn unsupported(what: &str) -> Error {
    Format::Jpeg.unsupported(what)
}
