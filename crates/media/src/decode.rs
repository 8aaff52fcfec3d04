//! Decoding to upright 8-bit RGB.
//!
//! All formats, the lossy ones too, have the bits that Pillow gives; the tests hold them against
//! files.

use crate::header::Stored;
use crate::pixels::Pixels;
use crate::{Format, Image, Limits, bmp, gif, jpeg, png, webp};
use types::Result;

/// What becomes of transparency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AlphaPolicy {
    /// The colours as stored, whatever their alpha (Pillow's `convert("RGB")`).
    Drop,
    /// Blended onto white (Pillow's `alpha_composite`).
    OnWhite,
}

/// Decodes the first frame, upright, alpha dropped.
///
/// Errors: those of [`crate::header`], and `InvalidInput` where the content is broken or cut off.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Image> {
    decode_with(bytes, limits, AlphaPolicy::Drop)
}

/// [`decode`] with a choice of what becomes of transparency.
pub fn decode_with(bytes: &[u8], limits: &Limits, alpha: AlphaPolicy) -> Result<Image> {
    let stored = Stored::read(bytes, limits)?;
    let Stored { format, size, orientation } = stored;
    let mut pixels = match format {
        Format::Jpeg => Pixels::opaque(jpeg::decode(bytes)?),
        Format::Png => png::decode(bytes, size)?,
        Format::Gif => gif::decode(bytes, size)?,
        Format::WebP => webp::decode(bytes, size)?,
        Format::Bmp => Pixels::opaque(bmp::decode(bytes)?),
    };
    if pixels.rgb.len() != size.n_bytes() {
        return Err(format.broken());
    }
    if alpha == AlphaPolicy::OnWhite {
        pixels.blend_onto_white();
    }
    Image::new(orientation.apply_to_size(size), orientation.apply(size, pixels.rgb))
}
