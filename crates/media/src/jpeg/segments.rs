//! The marker segments of a JPEG file.

use super::broken;
use types::Result;

/// The markers that matter, and what they are.
pub(super) mod marker {
    pub(in super::super) const DHT: u8 = 0xC4;
    pub(in super::super) const SOI: u8 = 0xD8;
    pub(in super::super) const EOI: u8 = 0xD9;
    pub(in super::super) const SOS: u8 = 0xDA;
    pub(in super::super) const DQT: u8 = 0xDB;
    pub(in super::super) const DRI: u8 = 0xDD;
    pub(in super::super) const APP0: u8 = 0xE0;
    pub(in super::super) const APP1: u8 = 0xE1;
    pub(in super::super) const APP14: u8 = 0xEE;

    /// The first of the eight restart markers.
    pub(in super::super) const RST0: u8 = 0xD0;

    /// Whether it starts a frame (SOF0 to SOF15).
    pub(in super::super) fn is_frame(marker: u8) -> bool {
        matches!(marker, 0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF)
    }

    /// Whether it stands alone, without length and payload.
    pub(super) fn is_bare(marker: u8) -> bool {
        matches!(marker, 0x01 | 0xD0..=0xD9)
    }
}

/// A marker and what follows it.
#[derive(Clone, Copy)]
pub(super) struct Segment<'a> {
    pub(super) marker: u8,
    pub(super) payload: &'a [u8],
}

/// Walks over the segments of a file.
pub(super) struct Segments<'a> {
    rest: &'a [u8],
}

impl<'a> Segments<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next segment; bytes between segments are skipped, as everybody does.
    pub(super) fn next(&mut self) -> Result<Segment<'a>> {
        loop {
            let start = self.rest.iter().position(|&byte| byte == 0xFF).ok_or_else(broken)?;
            let rest = &self.rest[start..];
            // Any number of fill bytes may stand before the marker's code.
            let code = rest.iter().position(|&byte| byte != 0xFF).ok_or_else(broken)?;
            let marker = rest[code];
            self.rest = &rest[code + 1..];
            match marker {
                0 | marker::SOI => {}
                _ if marker::is_bare(marker) => return Ok(Segment { marker, payload: &[] }),
                _ => return Ok(Segment { marker, payload: self.payload()? }),
            }
        }
    }

    /// What follows the last segment: after SOS, the entropy-coded data.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Goes on after `n_bytes` of entropy-coded data.
    pub(super) fn skip(&mut self, n_bytes: usize) {
        self.rest = &self.rest[n_bytes..];
    }

    fn payload(&mut self) -> Result<&'a [u8]> {
        let (length, _) = self.rest.split_first_chunk().ok_or_else(broken)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let payload = self.rest.get(2..length).ok_or_else(broken)?;
        self.rest = &self.rest[length..];
        Ok(payload)
    }
}
