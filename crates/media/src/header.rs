//! What a picture's first bytes say: format and size, read before anything is decoded.

use crate::exif::Orientation;
use crate::{Limits, Size, bmp, gif, jpeg, png, webp};
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
    let stored = Stored::read(bytes, limits)?;
    let size = stored.orientation.apply_to_size(stored.size);
    Ok(Header { format: stored.format, size })
}

/// The picture as it is stored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stored {
    pub(crate) format: Format,
    /// Before it is turned upright.
    pub(crate) size: Size,
    pub(crate) orientation: Orientation,
}

impl Stored {
    /// Reads the header of any format and checks it against the limits.
    pub(crate) fn read(bytes: &[u8], limits: &Limits) -> Result<Self> {
        limits.check_bytes(bytes.len())?;
        let format = Format::sniff(bytes).ok_or_else(|| {
            Error::new(
                ErrorKind::UnsupportedMedia,
                "the file is not a picture in JPEG, PNG, GIF, WebP or BMP",
            )
        })?;
        let (size, orientation) = match format {
            Format::Jpeg => {
                let header = jpeg::header(bytes)?;
                (header.size, Orientation::from_app1(&header.app1))
            }
            Format::Png => png::header(bytes)?,
            Format::Gif => (gif::size(bytes)?, Orientation::default()),
            Format::WebP => webp::header(bytes)?,
            Format::Bmp => (bmp::size(bytes)?, Orientation::default()),
        };
        limits.check_size(size)?;
        Ok(Self { format, size, orientation })
    }
}

impl Format {
    /// The format whose signature the file begins with.
    fn sniff(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0xFF, 0xD8, 0xFF, ..] => Some(Self::Jpeg),
            [0x89, b'P', b'N', b'G', 0x0D, 0x0A, 0x1A, 0x0A, ..] => Some(Self::Png),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Self::Gif),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Self::WebP),
            [b'B', b'M', ..] => Some(Self::Bmp),
            _ => None,
        }
    }

    /// What the format is called in messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::Gif => "GIF",
            Self::WebP => "WebP",
            Self::Bmp => "BMP",
        }
    }

    /// The data contradict the format, or end too soon.
    pub(crate) fn broken(self) -> Error {
        Error::invalid(format!("the {} data are broken or cut off", self.name()))
    }

    /// The data are of a kind of this format that hardly anybody writes.
    pub(crate) fn unsupported(self, what: &str) -> Error {
        let message = format!("{} with {what} is not supported", self.name());
        Error::new(ErrorKind::UnsupportedMedia, message)
    }
}
