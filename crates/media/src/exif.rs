//! Which way up a picture is, as EXIF or XMP say it.

use crate::Size;
use crate::image::CHANNELS;

/// How the stored picture is to be turned: EXIF's orientation, 1 to 8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Orientation {
    #[default]
    Upright = 1,
    FlippedSideways,
    UpsideDown,
    FlippedDown,
    Transposed,
    TurnedRight,
    Transversed,
    TurnedLeft,
}

/// The stored index of the first pixel, and the steps to the next one across and down.
struct Walk {
    first: isize,
    across: isize,
    down: isize,
}

/// Side of the tiles in which pixels are moved.
const TILE: usize = 32;

/// The tag of the orientation.
const TAG: u16 = 0x0112;

/// Bytes of a directory entry.
const ENTRY: usize = 12;

/// What stands before the TIFF data in JPEG, and sometimes elsewhere.
const PREFIX: &[u8] = b"Exif\0\0";

/// What stands before the XMP packet in JPEG.
const XMP_PREFIX: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";

impl Orientation {
    /// The orientation that EXIF data name, with or without their prefix; `None` if they do not.
    pub(crate) fn from_exif(mut data: &[u8]) -> Option<Self> {
        while let Some(rest) = data.strip_prefix(PREFIX) {
            data = rest;
        }
        Some(Self::from_number(Tiff::new(data)?.find(TAG)?))
    }

    /// The orientation that an XMP packet names.
    pub(crate) fn from_xmp(packet: &[u8]) -> Option<Self> {
        const NAME: &[u8] = b"tiff:Orientation";
        let start = packet.windows(NAME.len()).position(|window| window == NAME)?;
        let rest = &packet[start + NAME.len()..];
        let value = rest.strip_prefix(b"=\"").or_else(|| rest.strip_prefix(b">"))?;
        let digit = value.first().filter(|byte| byte.is_ascii_digit())?;
        Some(Self::from_number((digit - b'0').into()))
    }

    /// The orientation that a JPEG's APP1 segments name; EXIF goes before XMP.
    pub(crate) fn from_app1(segments: &[&[u8]]) -> Self {
        let exif = segments.iter().filter(|payload| payload.starts_with(PREFIX));
        let xmp = segments.iter().filter_map(|payload| payload.strip_prefix(XMP_PREFIX));
        let named = exif.filter_map(|payload| Self::from_exif(payload)).next();
        named.or_else(|| xmp.filter_map(Self::from_xmp).next()).unwrap_or_default()
    }

    /// The size after turning.
    pub(crate) fn apply_to_size(self, size: Size) -> Size {
        if self as u8 >= Self::Transposed as u8 { size.transposed() } else { size }
    }

    /// The pixels `[height, width, 3]` turned.
    pub(crate) fn apply(self, size: Size, rgb: Vec<u8>) -> Vec<u8> {
        if self == Self::Upright {
            return rgb;
        }
        let Walk { first, across, down } = self.walk(size);
        let width = self.apply_to_size(size).width as usize;
        let source = rgb.as_chunks::<CHANNELS>().0;
        let mut out = vec![0; rgb.len()];
        let mut rows: Vec<_> = out.as_chunks_mut::<CHANNELS>().0.chunks_exact_mut(width).collect();
        // In tiles: columns of the source are read while their lines are in the cache.
        for (tile_y, rows) in rows.chunks_mut(TILE).enumerate() {
            for tile_x in 0..width.div_ceil(TILE) {
                let columns = tile_x * TILE..width.min((tile_x + 1) * TILE);
                for (y, row) in rows.iter_mut().enumerate() {
                    let start = first + (tile_y * TILE + y) as isize * down;
                    for x in columns.clone() {
                        row[x] = source[(start + x as isize * across) as usize];
                    }
                }
            }
        }
        out
    }

    /// Where the pixels of the turned picture lie in the stored one.
    fn walk(self, size: Size) -> Walk {
        let (width, height) = (size.width as isize, size.height as isize);
        let (right, bottom) = (width - 1, (height - 1) * width);
        let (first, across, down) = match self {
            Self::Upright => (0, 1, width),
            Self::FlippedSideways => (right, -1, width),
            Self::UpsideDown => (bottom + right, -1, -width),
            Self::FlippedDown => (bottom, 1, -width),
            Self::Transposed => (0, width, 1),
            Self::TurnedRight => (bottom, -width, 1),
            Self::Transversed => (bottom + right, -width, -1),
            Self::TurnedLeft => (right, width, -1),
        };
        Walk { first, across, down }
    }

    fn from_number(number: u32) -> Self {
        match number {
            2 => Self::FlippedSideways,
            3 => Self::UpsideDown,
            4 => Self::FlippedDown,
            5 => Self::Transposed,
            6 => Self::TurnedRight,
            7 => Self::Transversed,
            8 => Self::TurnedLeft,
            _ => Self::Upright,
        }
    }
}

/// TIFF data: numbers of either byte order, a directory of tags.
struct Tiff<'a> {
    data: &'a [u8],
    is_big_endian: bool,
}

impl<'a> Tiff<'a> {
    fn new(data: &'a [u8]) -> Option<Self> {
        match data.get(..4)? {
            b"II*\0" => Some(Self { data, is_big_endian: false }),
            b"MM\0*" => Some(Self { data, is_big_endian: true }),
            _ => None,
        }
    }

    /// The whole number that the first directory has under `tag`.
    fn find(&self, tag: u16) -> Option<u32> {
        let directory = self.u32(4)? as usize;
        let n_entries = self.u16(directory)?;
        let mut entries = (0..usize::from(n_entries)).map(|idx| directory + 2 + idx * ENTRY);
        let entry = entries.find(|&entry| self.u16(entry) == Some(tag))?;
        let value = entry + 8;
        match self.u16(entry + 2)? {
            1 => self.data.get(value).map(|&byte| byte.into()),
            3 => self.u16(value).map(u32::from),
            4 => self.u32(value),
            _ => None,
        }
    }

    fn u16(&self, at: usize) -> Option<u16> {
        let bytes = *self.data.get(at..)?.first_chunk()?;
        Some(if self.is_big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    fn u32(&self, at: usize) -> Option<u32> {
        let bytes = *self.data.get(at..)?.first_chunk()?;
        Some(if self.is_big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }
}
