//! What travels on a connection once both sides have proved themselves: requests one way, answers
//! the other. All numbers are little-endian.
//!
//! A request is a head (the mark, the number of sources, table, lease, secret) and three numbers
//! for each source (region, offset, bytes). An answer is a head (what happened, how many bytes)
//! and the bytes of the sources in their order.

use planes::transport::N_SOURCES_MAX;
use planes::{Destination, RemoteHandle, Source};
use std::io::{self, Read};
use types::{LeaseId, Secret};

/// First bytes of a request; the last one is the version of the whole.
const MARK: [u8; 4] = *b"RD\x00\x01";

const N_HEAD_BYTES: usize = 48;
const N_SOURCE_BYTES: usize = 24;

/// Bytes of an answer before those of the sources.
pub(crate) const N_ANSWER_BYTES: usize = 16;

/// What a reader wants of an owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) table: u128,
    pub(crate) lease: LeaseId,
    pub(crate) secret: Secret,
    pub(crate) parts: Vec<Part>,
}

/// So many bytes from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) source: Source,
    pub(crate) n_bytes: usize,
}

/// What an owner answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// So many bytes follow.
    Bytes(u64),
    /// The lease, the secret or a source is not valid.
    Refused,
    /// The table is not served, or no longer.
    Withdrawn,
}

impl Request {
    /// A request for `sources` of what `from` grants, one for each region of `into`.
    pub(crate) fn new(
        table: u128,
        from: &RemoteHandle,
        sources: &[Source],
        into: &Destination,
    ) -> Self {
        let part = |(&source, region): (&Source, &planes::Region)| {
            let n_bytes = region.n_bytes();
            Part { source, n_bytes }
        };
        let parts = sources.iter().zip(&into.regions).map(part).collect();
        Self { table, lease: from.lease, secret: from.secret, parts }
    }

    /// As it travels.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(N_HEAD_BYTES + self.parts.len() * N_SOURCE_BYTES);
        bytes.extend(MARK);
        bytes.extend((self.parts.len() as u32).to_le_bytes());
        bytes.extend(self.table.to_le_bytes());
        bytes.extend(self.lease.slot.to_le_bytes());
        bytes.extend(self.lease.generation.to_le_bytes());
        bytes.extend(self.secret.0.to_le_bytes());
        for Part { source, n_bytes } in &self.parts {
            for number in [source.region_idx, source.offset, *n_bytes] {
                bytes.extend((number as u64).to_le_bytes());
            }
        }
        bytes
    }

    /// Receives one. Errors: it is none (`InvalidData`), or the stream's.
    pub(crate) fn receive(stream: &mut impl Read) -> io::Result<Self> {
        if take::<4>(stream)? != MARK {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let n_sources = u32::from_le_bytes(take(stream)?) as usize;
        if n_sources > N_SOURCES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Self {
            table: u128::from_le_bytes(take(stream)?),
            lease: LeaseId {
                slot: u32::from_le_bytes(take(stream)?),
                generation: u32::from_le_bytes(take(stream)?),
            },
            secret: Secret(u128::from_le_bytes(take(stream)?)),
            // Memory grows as sources arrive, not as they are announced.
            parts: (0..n_sources).map(|_| receive_part(stream)).collect::<io::Result<_>>()?,
        })
    }
}

fn receive_part(stream: &mut impl Read) -> io::Result<Part> {
    let region_idx = take_usize(stream)?;
    let offset = take_usize(stream)?;
    let n_bytes = take_usize(stream)?;
    Ok(Part { source: Source { region_idx, offset }, n_bytes })
}

fn take_usize(stream: &mut impl Read) -> io::Result<usize> {
    let number = u64::from_le_bytes(take(stream)?);
    usize::try_from(number).map_err(|_| io::ErrorKind::InvalidData.into())
}

fn take<const N: usize>(stream: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

impl Answer {
    /// As it travels.
    pub(crate) fn encode(self) -> [u8; N_ANSWER_BYTES] {
        let (code, n_bytes) = match self {
            Self::Bytes(n_bytes) => (0_u64, n_bytes),
            Self::Refused => (1, 0),
            Self::Withdrawn => (2, 0),
        };
        let mut bytes = [0; N_ANSWER_BYTES];
        bytes[..8].copy_from_slice(&code.to_le_bytes());
        bytes[8..].copy_from_slice(&n_bytes.to_le_bytes());
        bytes
    }

    /// Receives one. Errors: it is none (`InvalidData`), or the stream's.
    pub(crate) fn receive(stream: &mut impl Read) -> io::Result<Self> {
        let bytes: [u8; N_ANSWER_BYTES] = take(stream)?;
        let (code, n_bytes) = bytes.split_at(8);
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        match (number(code), number(n_bytes)) {
            (0, n_bytes) => Ok(Self::Bytes(n_bytes)),
            (1, 0) => Ok(Self::Refused),
            (2, 0) => Ok(Self::Withdrawn),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(n_sources: usize) -> Request {
        let source = |i| Source { region_idx: i, offset: usize::MAX - i };
        Request {
            table: 3 << 100,
            lease: LeaseId { slot: 5, generation: u32::MAX },
            secret: Secret(u128::MAX - 7),
            parts: (0..n_sources).map(|i| Part { source: source(i), n_bytes: 9 * i }).collect(),
        }
    }

    fn receive(bytes: &[u8]) -> Option<Request> {
        Request::receive(&mut &*bytes).ok()
    }

    #[test]
    fn what_is_sent_is_what_is_received() {
        for n_sources in [0, 1, 2, 1000, N_SOURCES_MAX] {
            let sent = request(n_sources);
            assert_eq!(receive(&sent.encode()), Some(sent), "{n_sources}");
        }
        for answer in [Answer::Bytes(0), Answer::Bytes(77), Answer::Refused, Answer::Withdrawn] {
            assert_eq!(Answer::receive(&mut &answer.encode()[..]).unwrap(), answer);
        }
    }

    #[test]
    fn what_is_cut_or_foreign_is_refused() {
        let sent = request(3).encode();
        for n_bytes in 0..sent.len() {
            assert_eq!(receive(&sent[..n_bytes]), None, "cut after {n_bytes}");
        }
        for idx in 0..MARK.len() {
            let mut foreign = sent.clone();
            foreign[idx] ^= 1;
            assert_eq!(receive(&foreign), None, "another mark at {idx}");
        }
        assert_eq!(receive(&request(N_SOURCES_MAX + 1).encode()), None, "too many sources");
        for answer in [[3; 16], [0xFF; 16], *b"\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0"] {
            assert!(Answer::receive(&mut &answer[..]).is_err(), "{answer:?}");
        }
    }
}
