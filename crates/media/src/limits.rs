//! How large a picture may be, checked on the header before anything is decoded.

use crate::Size;
use types::{Error, ErrorKind, Result};

/// Bounds on one picture. Decoding takes at most some 16 bytes a pixel of working memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most pixels (width times height).
    pub max_pixels: u64,
    /// Most bytes of the encoded file.
    pub max_bytes: usize,
    /// Longest side, in pixels.
    pub max_side: u32,
}

impl Limits {
    /// 8192 x 8192: 192 MiB as RGB, more than cameras of today usually write.
    pub const MAX_PIXELS: u64 = 1 << 26;
    /// 32 MiB.
    pub const MAX_BYTES: usize = 32 << 20;
    /// What JPEG can say at most.
    pub const MAX_SIDE: u32 = 65_535;

    /// Refuses an encoded file of `n_bytes` that is over the limit.
    pub fn check_bytes(&self, n_bytes: usize) -> Result<()> {
        if n_bytes > self.max_bytes {
            let limit = self.max_bytes;
            return Err(too_large(format!("the file has {n_bytes} bytes, the limit is {limit}")));
        }
        Ok(())
    }

    /// Refuses a picture of `size` that is empty or over a limit.
    pub fn check_size(&self, size: Size) -> Result<()> {
        let Size { width, height } = size;
        if size.n_pixels() == 0 {
            return Err(Error::invalid(format!("the picture is empty ({width}x{height})")));
        }
        if size.n_pixels() > self.max_pixels {
            let limit = self.max_pixels;
            return Err(too_large(format!(
                "the picture has {width}x{height} pixels, the limit is {limit} in all"
            )));
        }
        if width.max(height) > self.max_side {
            let limit = self.max_side;
            return Err(too_large(format!(
                "the picture has {width}x{height} pixels, the limit is {limit} a side"
            )));
        }
        Ok(())
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_pixels: Self::MAX_PIXELS, max_bytes: Self::MAX_BYTES, max_side: Self::MAX_SIDE }
    }
}

fn too_large(message: String) -> Error {
    Error::new(ErrorKind::TooLarge, message)
}
