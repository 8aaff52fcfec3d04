//! The frames that two processes exchange, and the message that carries a batch of them.
//!
//! A message is a version, the epoch of the process that sent it, and frames one after another.
//! Reading is total: any bytes give frames or nothing, and no length is believed before it was
//! compared with its limit. Must not know calls, handlers, or NATS.

use crate::codec::{Reader, put_bytes, put_number};
use bytes::{BufMut, Bytes, BytesMut};
use planes::messaging::N_BODY_BYTES_MAX;
use types::{Error, ErrorKind};

/// The first byte of each message; another version is not read.
const VERSION: u8 = 1;
/// Bytes of a message before its first frame.
pub(crate) const N_HEADER_BYTES: usize = 1 + size_of::<Epoch>();
/// Bytes of a frame apart from its texts, bodies and lists, at most: a tag and five numbers.
pub(crate) const N_FRAME_BYTES: usize = 1 + 5 * N_NUMBER_BYTES;
/// Bytes of one entry of a roll, at most.
pub(crate) const N_ENTRY_BYTES: usize = 2 * N_NUMBER_BYTES;
/// Bytes of the longest number.
const N_NUMBER_BYTES: usize = 10;
/// Longest trace context, in bytes; a longer one is not carried.
pub(crate) const N_TRACE_BYTES_MAX: usize = 1024;
/// Longest sentence of a failure, in bytes; a longer one is cut.
const N_SENTENCE_BYTES_MAX: usize = 2048;
/// Longest name of a request field in a failure, in bytes; a longer one is cut.
const N_PARAM_BYTES_MAX: usize = 512;
/// What everything but a body fits in, with room for some of a body, in bytes.
pub(crate) const N_MESSAGE_BYTES_MIN: usize = 4096;

/// One life of a process, as its peers know it; nobody can guess it.
pub(crate) type Epoch = u128;

/// A call's number among those of its caller's epoch; never used again.
pub(crate) type StreamId = u64;

/// A body, or as much of its beginning as the message had room for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Beginning {
    /// Length of the whole, in bytes.
    pub(crate) n_body_bytes: usize,
    pub(crate) bytes: Bytes,
}

/// Whose part of the streams a roll tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The streams called, with the number of replies read of each.
    Caller,
    /// The streams answered, with the number of frames sent of each.
    Callee,
}

/// A heartbeat: all streams that the sender and the receiver have in common, in order of their
/// numbers. A stream between `first` and `last` that is not listed does not live any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Roll {
    pub(crate) side: Side,
    pub(crate) first: StreamId,
    pub(crate) last: StreamId,
    pub(crate) entries: Vec<(StreamId, u64)>,
}

impl Roll {
    /// The count that stands beside the stream, if it is listed.
    pub(crate) fn count(&self, stream: StreamId) -> Option<u64> {
        let found = self.entries.binary_search_by_key(&stream, |entry| entry.0);
        found.ok().map(|idx| self.entries[idx].1)
    }

    /// Whether the roll says that a stream has ended.
    pub(crate) fn denies(&self, stream: StreamId) -> bool {
        (self.first..=self.last).contains(&stream) && self.count(stream).is_none()
    }
}

/// What a callee says of a stream; each has its number in the stream, counted from zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Reply(Beginning),
    /// More of the reply before it.
    More(Bytes),
    End,
    Failure(Error),
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    /// A call.
    Open { stream: StreamId, deadline_ms: u64, trace: String, body: Beginning },
    /// More of a call's body, which began `offset` bytes earlier.
    OpenMore { stream: StreamId, offset: usize, bytes: Bytes },
    /// Something that was called for.
    Answer { stream: StreamId, number: u64, answer: Answer },
    /// So many replies of the stream have been read.
    Credit { stream: StreamId, n_read: u64 },
    /// Nobody waits for the stream any more.
    Cancel { stream: StreamId },
    /// A heartbeat.
    Roll(Roll),
}

const TAG_OPEN: u8 = 1;
const TAG_OPEN_MORE: u8 = 2;
const TAG_REPLY: u8 = 3;
const TAG_MORE: u8 = 4;
const TAG_END: u8 = 5;
const TAG_FAILURE: u8 = 6;
const TAG_CREDIT: u8 = 7;
const TAG_CANCEL: u8 = 8;
const TAG_ROLL_OF_CALLER: u8 = 9;
const TAG_ROLL_OF_CALLEE: u8 = 10;

/// The kinds of failure by their numbers in a message, which never change.
const KINDS: [(u8, ErrorKind); ErrorKind::ALL.len()] = [
    (1, ErrorKind::InvalidInput),
    (2, ErrorKind::ContextLengthExceeded),
    (3, ErrorKind::NotFound),
    (4, ErrorKind::Forbidden),
    (5, ErrorKind::TooLarge),
    (6, ErrorKind::UnsupportedMedia),
    (7, ErrorKind::Overloaded),
    (8, ErrorKind::Timeout),
    (9, ErrorKind::Cancelled),
    (10, ErrorKind::MediaOrigin),
    (11, ErrorKind::Unavailable),
    (12, ErrorKind::PeerLost),
    (13, ErrorKind::Internal),
];

/// Begins a message.
pub(crate) fn put_header(out: &mut BytesMut, epoch: Epoch) {
    out.put_u8(VERSION);
    out.put_u128(epoch);
}

/// Who sent the message, if it is one of ours.
pub(crate) fn read_header(reader: &mut Reader) -> Option<Epoch> {
    (reader.byte()? == VERSION).then(|| reader.u128())?
}

impl Frame {
    /// Bytes that the frame takes, at most.
    pub(crate) fn n_bytes_max(&self) -> usize {
        N_FRAME_BYTES
            + match self {
                Self::Open { trace, body, .. } => trace.len() + body.bytes.len(),
                Self::OpenMore { bytes, .. } => bytes.len(),
                Self::Answer { answer, .. } => answer.n_bytes_max(),
                Self::Credit { .. } | Self::Cancel { .. } => 0,
                Self::Roll(roll) => roll.entries.len() * N_ENTRY_BYTES,
            }
    }

    /// Appends the frame to a message.
    pub(crate) fn put(&self, out: &mut BytesMut) {
        match self {
            Self::Open { stream, deadline_ms, trace, body } => {
                put_tag(out, TAG_OPEN, &[*stream, *deadline_ms]);
                put_bytes(out, trace.as_bytes());
                put_beginning(out, body);
            }
            Self::OpenMore { stream, offset, bytes } => {
                put_tag(out, TAG_OPEN_MORE, &[*stream, *offset as u64]);
                put_bytes(out, bytes);
            }
            Self::Answer { stream, number, answer } => put_answer(out, *stream, *number, answer),
            Self::Credit { stream, n_read } => put_tag(out, TAG_CREDIT, &[*stream, *n_read]),
            Self::Cancel { stream } => put_tag(out, TAG_CANCEL, &[*stream]),
            Self::Roll(roll) => put_roll(out, roll),
        }
    }

    /// The next frame of a message, or nothing when its bytes are not one.
    pub(crate) fn read(reader: &mut Reader) -> Option<Self> {
        let tag = reader.byte()?;
        match tag {
            TAG_ROLL_OF_CALLER => return read_roll(reader, Side::Caller),
            TAG_ROLL_OF_CALLEE => return read_roll(reader, Side::Callee),
            _ => {}
        }
        let stream = reader.number()?;
        Some(match tag {
            TAG_OPEN => Self::Open {
                stream,
                deadline_ms: reader.number()?,
                trace: reader.text(N_TRACE_BYTES_MAX)?,
                body: read_beginning(reader)?,
            },
            TAG_OPEN_MORE => Self::OpenMore {
                stream,
                offset: reader.size(N_BODY_BYTES_MAX)?,
                bytes: reader.bytes(N_BODY_BYTES_MAX)?,
            },
            TAG_CREDIT => Self::Credit { stream, n_read: reader.number()? },
            TAG_CANCEL => Self::Cancel { stream },
            _ => {
                let number = reader.number()?;
                Self::Answer { stream, number, answer: read_answer(reader, tag)? }
            }
        })
    }
}

impl Answer {
    fn n_bytes_max(&self) -> usize {
        match self {
            Self::Reply(body) => body.bytes.len(),
            Self::More(bytes) => bytes.len(),
            Self::End => 0,
            Self::Failure(_) => N_SENTENCE_BYTES_MAX + N_PARAM_BYTES_MAX,
        }
    }
}

fn put_tag(out: &mut BytesMut, tag: u8, numbers: &[u64]) {
    out.put_u8(tag);
    numbers.iter().for_each(|&number| put_number(out, number));
}

fn put_beginning(out: &mut BytesMut, body: &Beginning) {
    put_number(out, body.n_body_bytes as u64);
    put_bytes(out, &body.bytes);
}

fn read_beginning(reader: &mut Reader) -> Option<Beginning> {
    let n_body_bytes = reader.size(N_BODY_BYTES_MAX)?;
    Some(Beginning { n_body_bytes, bytes: reader.bytes(n_body_bytes)? })
}

fn put_answer(out: &mut BytesMut, stream: StreamId, number: u64, answer: &Answer) {
    let mut tag = |tag| put_tag(out, tag, &[stream, number]);
    match answer {
        Answer::Reply(body) => {
            tag(TAG_REPLY);
            put_beginning(out, body);
        }
        Answer::More(bytes) => {
            tag(TAG_MORE);
            put_bytes(out, bytes);
        }
        Answer::End => tag(TAG_END),
        Answer::Failure(failure) => {
            tag(TAG_FAILURE);
            put_failure(out, failure);
        }
    }
}

fn read_answer(reader: &mut Reader, tag: u8) -> Option<Answer> {
    match tag {
        TAG_REPLY => Some(Answer::Reply(read_beginning(reader)?)),
        TAG_MORE => Some(Answer::More(reader.bytes(N_BODY_BYTES_MAX)?)),
        TAG_END => Some(Answer::End),
        TAG_FAILURE => Some(Answer::Failure(read_failure(reader)?)),
        _ => None,
    }
}

fn put_failure(out: &mut BytesMut, failure: &Error) {
    let of_kind = KINDS.iter().find(|(_, kind)| *kind == failure.kind);
    let (number, _) = of_kind.expect("each kind has its number");
    out.put_u8(*number);
    put_bytes(out, cut(&failure.message, N_SENTENCE_BYTES_MAX).as_bytes());
    out.put_u8(u8::from(failure.param.is_some()));
    if let Some(param) = &failure.param {
        put_bytes(out, cut(param, N_PARAM_BYTES_MAX).as_bytes());
    }
}

fn read_failure(reader: &mut Reader) -> Option<Error> {
    let number = reader.byte()?;
    let (_, kind) = KINDS.iter().find(|(known, _)| *known == number)?;
    let message = reader.text(N_SENTENCE_BYTES_MAX)?;
    let param = match reader.byte()? {
        0 => None,
        1 => Some(reader.text(N_PARAM_BYTES_MAX)?),
        _ => return None,
    };
    Some(Error { kind: *kind, message, param })
}

fn cut(text: &str, n_bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(n_bytes_max)]
}

fn put_roll(out: &mut BytesMut, roll: &Roll) {
    let tag = match roll.side {
        Side::Caller => TAG_ROLL_OF_CALLER,
        Side::Callee => TAG_ROLL_OF_CALLEE,
    };
    put_tag(out, tag, &[roll.first, roll.last, roll.entries.len() as u64]);
    let mut before = roll.first;
    for &(stream, count) in &roll.entries {
        put_number(out, stream - before);
        put_number(out, count);
        before = stream;
    }
}

fn read_roll(reader: &mut Reader, side: Side) -> Option<Frame> {
    let (first, last) = (reader.number()?, reader.number()?);
    // An entry takes two bytes at least.
    let n_entries = reader.size(reader.len() / 2)?;
    let mut entries: Vec<(StreamId, u64)> = Vec::with_capacity(n_entries);
    let mut before = first;
    for idx in 0..n_entries {
        let step = reader.number()?;
        if idx > 0 && step == 0 {
            return None;
        }
        before = before.checked_add(step).filter(|&stream| stream <= last)?;
        entries.push((before, reader.number()?));
    }
    Some(Frame::Roll(Roll { side, first, last, entries }))
}

#[cfg(test)]
mod tests;
