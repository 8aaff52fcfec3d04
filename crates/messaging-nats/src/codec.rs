//! Numbers and byte strings as they stand in a message: reading is total, whatever the bytes.
//!
//! Must not know what the numbers mean.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bits of a number that one byte carries; its highest bit says that more follow.
const N_BITS: u32 = 7;
/// Byte strings up to this length are copied out of a message, because a slice would keep the whole
/// buffer that the message was read into.
const N_COPIED_BYTES_MAX: usize = 4096;

/// Appends a number, least significant bits first.
pub(crate) fn put_number(out: &mut BytesMut, mut number: u64) {
    while number >> N_BITS != 0 {
        out.put_u8(number as u8 | 0x80);
        number >>= N_BITS;
    }
    out.put_u8(number as u8);
}

/// Appends a byte string with its length.
pub(crate) fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.put_slice(bytes);
}

/// What is left to read of a message.
pub(crate) struct Reader(Bytes);

impl Reader {
    pub(crate) fn new(message: Bytes) -> Self {
        Self(message)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes left.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        (!self.0.is_empty()).then(|| self.0.get_u8())
    }

    pub(crate) fn u128(&mut self) -> Option<u128> {
        (self.0.len() >= size_of::<u128>()).then(|| self.0.get_u128())
    }

    pub(crate) fn number(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..u64::BITS).step_by(N_BITS as usize) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if (bits << shift) >> shift != bits {
                return None;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    /// A count or length of at most `max`.
    pub(crate) fn size(&mut self, max: usize) -> Option<usize> {
        let size = usize::try_from(self.number()?).ok()?;
        (size <= max).then_some(size)
    }

    /// A byte string of at most `n_bytes_max` bytes.
    pub(crate) fn bytes(&mut self, n_bytes_max: usize) -> Option<Bytes> {
        let n_bytes = self.size(n_bytes_max.min(self.0.len()))?;
        if n_bytes > self.0.len() {
            return None;
        }
        let bytes = self.0.split_to(n_bytes);
        let is_small = n_bytes <= N_COPIED_BYTES_MAX;
        Some(if is_small { Bytes::copy_from_slice(&bytes) } else { bytes })
    }

    /// A text of at most `n_bytes_max` bytes.
    pub(crate) fn text(&mut self, n_bytes_max: usize) -> Option<String> {
        String::from_utf8(self.bytes(n_bytes_max)?.into()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        let numbers = [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX - 1, u64::MAX];
        let mut out = BytesMut::new();
        numbers.iter().for_each(|&number| put_number(&mut out, number));
        let mut reader = Reader::new(out.freeze());
        for number in numbers {
            assert_eq!(reader.number(), Some(number));
        }
        assert!(reader.is_empty());
    }

    #[test]
    fn numbers_that_are_cut_or_too_large_are_none() {
        for bytes in [&[][..], &[0x80], &[0xff; 9], &[0xff; 10], &[0xff; 11]] {
            assert_eq!(Reader::new(Bytes::copy_from_slice(bytes)).number(), None, "{bytes:?}");
        }
    }

    #[test]
    fn a_byte_string_is_within_its_limit_and_the_message() {
        let mut out = BytesMut::new();
        put_bytes(&mut out, b"four");
        let message = out.freeze();
        assert_eq!(Reader::new(message.clone()).bytes(4).as_deref(), Some(&b"four"[..]));
        assert_eq!(Reader::new(message.clone()).bytes(3), None);
        assert_eq!(Reader::new(message.slice(..4)).bytes(4), None);
    }
}
