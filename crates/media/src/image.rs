//! A decoded picture and its size.

use std::ops::Range;
use types::{Error, Result};

/// Bytes of one RGB pixel.
pub(crate) const CHANNELS: usize = 3;

/// Width and height in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Size {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl Size {
    /// A size of `width` columns and `height` rows.
    pub fn new(width: u32, height: u32) -> Self {
        Self { width, height }
    }

    /// Width times height.
    pub fn n_pixels(self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    /// The same with rows and columns exchanged.
    #[must_use]
    pub fn transposed(self) -> Self {
        Self { width: self.height, height: self.width }
    }

    /// Bytes of its RGB pixels.
    pub(crate) fn n_bytes(self) -> usize {
        self.width as usize * self.height as usize * CHANNELS
    }
}

/// A rectangle inside a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window {
    /// Columns to its left.
    pub left: u32,
    /// Rows above it.
    pub top: u32,
    /// Its own size.
    pub size: Size,
}

impl Window {
    /// All of a picture of this size.
    pub fn whole(size: Size) -> Self {
        Self { left: 0, top: 0, size }
    }

    /// A rectangle of `size` in the middle of `of`, which is as large at least; of an odd rest the
    /// larger part is right and below.
    pub fn centred(size: Size, of: Size) -> Self {
        Self { left: (of.width - size.width) / 2, top: (of.height - size.height) / 2, size }
    }

    /// Its columns in the picture.
    pub(crate) fn columns(self) -> Range<u32> {
        self.left..self.left + self.size.width
    }

    /// Its rows in the picture.
    pub(crate) fn rows(self) -> Range<u32> {
        self.top..self.top + self.size.height
    }
}

/// A picture as 8-bit RGB; upright, without alpha.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Pixels in a row, at least 1.
    pub width: u32,
    /// Rows, at least 1.
    pub height: u32,
    /// Pixels `[height, width, 3]`, row by row.
    pub rgb: Vec<u8>,
}

impl Image {
    /// A picture of the given pixels `[height, width, 3]`.
    ///
    /// Errors: `Internal` where a side is 0 or the number of bytes is another one.
    pub fn new(size: Size, rgb: Vec<u8>) -> Result<Self> {
        if size.n_pixels() == 0 || rgb.len() != size.n_bytes() {
            return Err(Error::internal("a picture's pixels do not match its size"));
        }
        Ok(Self { width: size.width, height: size.height, rgb })
    }

    /// Its size.
    pub fn size(&self) -> Size {
        Size::new(self.width, self.height)
    }
}
