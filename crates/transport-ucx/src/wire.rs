//! What both sides say to each other in active messages. All numbers are little-endian.

use crate::limits::WORDS_BYTES_MAX;
use crate::runs::{Place, Segment};
use planes::Source;
use planes::transport::N_SOURCES_MAX;
use types::{Error, ErrorKind, LeaseId, Result, Secret};

/// Reader to owner: send these bytes.
pub(crate) const REQUEST: u32 = 0;
/// Reader to owner: send no more of them.
pub(crate) const CANCEL: u32 = 1;
/// Owner to reader: some of the bytes.
pub(crate) const DATA: u32 = 2;
/// Owner to reader: all was sent while the lease was pinned; or why not.
pub(crate) const REPLY: u32 = 3;

/// All kinds of message.
pub(crate) const KINDS: [u32; 4] = [REQUEST, CANCEL, DATA, REPLY];

/// Bytes of the header of every message.
pub(crate) const N_HEADER_BYTES: usize = 28;

const N_SEGMENT_BYTES: usize = 25;
const N_LEASE_BYTES: usize = 24;

/// Bytes of the longest message that is no data.
pub(crate) const BODY_BYTES_MAX: usize = N_LEASE_BYTES + N_SOURCES_MAX * N_SEGMENT_BYTES;

/// What a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// The receiver's name for the pair.
    pub(crate) pair: u64,
    /// The reader's number of the read.
    pub(crate) read: u64,
    /// Where the bytes belong; zeros in other messages.
    pub(crate) place: Place,
}

/// What a reader asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) lease: LeaseId,
    pub(crate) secret: Secret,
    pub(crate) segments: Vec<Segment>,
}

impl Header {
    pub(crate) fn about(pair: u64, read: u64) -> Self {
        Self { pair, read, place: Place { run: 0, offset: 0 } }
    }

    pub(crate) fn encode(&self) -> [u8; N_HEADER_BYTES] {
        let mut bytes = [0; N_HEADER_BYTES];
        bytes[..8].copy_from_slice(&self.pair.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.read.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.place.run.to_le_bytes());
        bytes[20..].copy_from_slice(&self.place.offset.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = Rest(bytes);
        let (pair, read) = (rest.u64()?, rest.u64()?);
        let place = Place { run: rest.u32()?, offset: rest.u64()? };
        rest.is_empty().then_some(Self { pair, read, place })
    }
}

impl Request {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let n_bytes = N_LEASE_BYTES + self.segments.len() * N_SEGMENT_BYTES;
        let mut bytes = Vec::with_capacity(n_bytes);
        bytes.extend(self.lease.slot.to_le_bytes());
        bytes.extend(self.lease.generation.to_le_bytes());
        bytes.extend(self.secret.0.to_le_bytes());
        for segment in &self.segments {
            bytes.push(u8::from(segment.begins_run));
            for number in [segment.source.region_idx, segment.source.offset, segment.n_bytes] {
                bytes.extend((number as u64).to_le_bytes());
            }
        }
        bytes
    }

    /// Errors: it is no request (`InvalidInput`).
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        Self::parse(bytes).ok_or_else(|| Error::invalid("the request for bytes is malformed"))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut rest = Rest(bytes);
        let lease = LeaseId { slot: rest.u32()?, generation: rest.u32()? };
        let secret = Secret(u128::from_le_bytes(rest.take()?));
        if !rest.0.len().is_multiple_of(N_SEGMENT_BYTES) || bytes.len() > BODY_BYTES_MAX {
            return None;
        }
        let mut segments = Vec::with_capacity(rest.0.len() / N_SEGMENT_BYTES);
        while !rest.is_empty() {
            let begins_run = match rest.take()? {
                [0] => false,
                [1] => true,
                _ => return None,
            };
            let source = Source { region_idx: rest.number()?, offset: rest.number()? };
            segments.push(Segment { source, n_bytes: rest.number()?, begins_run });
        }
        Some(Self { lease, secret, segments })
    }
}

/// How a read ended at the owner: a byte for the kind (0: all was sent) and words.
pub(crate) fn encode_reply(outcome: &Result<()>) -> Vec<u8> {
    let Err(failure) = outcome else { return vec![0] };
    let kind = ErrorKind::ALL.iter().position(|kind| *kind == failure.kind).unwrap_or(0);
    let words = failure.message.as_bytes();
    let mut bytes = vec![kind as u8 + 1];
    bytes.extend(&words[..words.len().min(WORDS_BYTES_MAX)]);
    bytes
}

/// What the owner said. Errors: its own, or `PeerLost` if that was no reply.
pub(crate) fn decode_reply(bytes: &[u8]) -> Result<()> {
    let (kind, words) = bytes.split_first().ok_or_else(|| crate::lost("it sent no reply"))?;
    if *kind == 0 && words.is_empty() {
        return Ok(());
    }
    let kind = usize::from(*kind).checked_sub(1).and_then(|idx| ErrorKind::ALL.get(idx));
    let kind = kind.ok_or_else(|| crate::lost("its reply is malformed"))?;
    let words = String::from_utf8_lossy(&words[..words.len().min(WORDS_BYTES_MAX)]);
    Err(Error::new(*kind, words))
}

/// What is left of a message.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn number(&mut self) -> Option<usize> {
        self.u64()?.try_into().ok()
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        let segment = |region_idx, offset, n_bytes, begins_run| Segment {
            source: Source { region_idx, offset },
            n_bytes,
            begins_run,
        };
        Request {
            lease: LeaseId { slot: 3, generation: 9 },
            secret: Secret(u128::MAX - 7),
            segments: vec![segment(0, 1, 2, true), segment(usize::MAX, usize::MAX, 0, false)],
        }
    }

    #[test]
    fn messages_are_read_as_they_are_written() {
        let header = Header { pair: 1, read: 2, place: Place { run: 3, offset: u64::MAX } };
        assert_eq!(Header::decode(&header.encode()), Some(header));
        assert_eq!(Request::decode(&request().encode()), Ok(request()));
        for kind in ErrorKind::ALL {
            let outcome = Err(Error::new(kind, "words"));
            assert_eq!(decode_reply(&encode_reply(&outcome)), outcome);
        }
        assert_eq!(decode_reply(&encode_reply(&Ok(()))), Ok(()));
    }

    #[test]
    fn what_is_cut_or_longer_is_refused() {
        let header = Header::about(1, 2).encode();
        for n_bytes in 0..header.len() {
            assert_eq!(Header::decode(&header[..n_bytes]), None);
        }
        let whole = request().encode();
        let n_segments = |n_bytes: usize| {
            Request::decode(&whole[..n_bytes]).map(|request| request.segments.len()).ok()
        };
        for n_bytes in 0..=whole.len() {
            let n_whole = n_bytes.checked_sub(N_LEASE_BYTES);
            let expected = n_whole.filter(|n| n % N_SEGMENT_BYTES == 0);
            assert_eq!(n_segments(n_bytes), expected.map(|n| n / N_SEGMENT_BYTES), "{n_bytes}");
        }
        assert!(Request::decode(&vec![1; BODY_BYTES_MAX + N_SEGMENT_BYTES]).is_err());
        let mut odd = whole.clone();
        odd[N_LEASE_BYTES] = 2;
        assert!(Request::decode(&odd).is_err());
    }

    #[test]
    fn a_reply_that_is_none_is_a_lost_peer() {
        for bytes in [&[][..], &[200, b'x'], &[0, 1]] {
            assert_eq!(decode_reply(bytes).unwrap_err().kind, ErrorKind::PeerLost, "{bytes:?}");
        }
        let long = vec![b'a'; 2 * WORDS_BYTES_MAX];
        let reply = [&[1][..], &long].concat();
        assert_eq!(decode_reply(&reply).unwrap_err().message.len(), WORDS_BYTES_MAX);
    }
}
