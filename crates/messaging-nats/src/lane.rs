//! Frames on their way to one place, packed into messages as they come.
//!
//! A frame joins the message that is being filled, unless that has become large enough. Nothing
//! waits for company: whoever takes the messages takes what is there.

use crate::frame::{Epoch, Frame, N_HEADER_BYTES, put_header};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;

/// A message is closed when the next frame would make it larger than this, in bytes: large enough
/// that its own cost is spread over hundreds of frames, small enough for all caches.
const N_BATCH_BYTES: usize = 32 * 1024;

/// A message that is ready to go.
#[derive(Debug)]
pub(crate) struct Message {
    /// Its number among the messages of this process that bear one.
    pub(crate) number: u64,
    pub(crate) payload: Bytes,
}

/// What the messages of this process have in common.
#[derive(Debug)]
pub(crate) struct Envelope {
    pub(crate) epoch: Epoch,
    /// The server's limit, in bytes.
    pub(crate) n_message_bytes_max: usize,
    /// The number of the next message.
    pub(crate) next_number: u64,
}

/// The messages to one place.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    full: VecDeque<Message>,
    filling: BytesMut,
    filling_number: u64,
    n_bytes: usize,
}

impl Lane {
    /// Bytes that wait to be taken.
    pub(crate) fn n_bytes(&self) -> usize {
        self.n_bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.n_bytes == 0
    }

    /// Adds a frame, and returns the number of its message.
    pub(crate) fn push(&mut self, frame: &Frame, envelope: &mut Envelope) -> u64 {
        let n_bytes_max = frame.n_bytes_max();
        let n_batch_bytes = N_BATCH_BYTES.min(envelope.n_message_bytes_max);
        if !self.filling.is_empty() && self.filling.len() + n_bytes_max > n_batch_bytes {
            self.close();
        }
        let n_before = self.filling.len();
        if self.filling.is_empty() {
            self.filling_number = envelope.next_number;
            envelope.next_number += 1;
            self.filling.reserve(N_HEADER_BYTES + n_bytes_max);
            put_header(&mut self.filling, envelope.epoch);
        }
        frame.put(&mut self.filling);
        self.n_bytes += self.filling.len() - n_before;
        self.filling_number
    }

    fn close(&mut self) {
        let payload = self.filling.split().freeze();
        self.full.push_back(Message { number: self.filling_number, payload });
    }

    /// Takes all messages, the last as full as it is.
    pub(crate) fn take(&mut self) -> VecDeque<Message> {
        if !self.filling.is_empty() {
            self.close();
        }
        self.n_bytes = 0;
        std::mem::take(&mut self.full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Reader;
    use crate::frame::read_header;

    #[test]
    fn frames_share_messages_in_order_and_within_the_size() {
        let mut lane = Lane::default();
        let mut envelope = Envelope { epoch: 9, n_message_bytes_max: 5000, next_number: 5 };
        let sent: Vec<Frame> =
            (0..20_000).map(|stream| Frame::Credit { stream, n_read: 1 }).collect();
        let numbers: Vec<u64> = sent.iter().map(|frame| lane.push(frame, &mut envelope)).collect();
        assert_eq!((numbers[0], numbers[19_999] + 1), (5, envelope.next_number));
        let n_bytes = lane.n_bytes();
        let messages = lane.take();
        assert!(lane.is_empty() && lane.take().is_empty());
        assert_eq!(messages.iter().map(|message| message.payload.len()).sum::<usize>(), n_bytes);
        let mut read = Vec::new();
        for message in messages {
            assert!(message.payload.len() <= 5000);
            let mut reader = Reader::new(message.payload);
            assert_eq!(read_header(&mut reader), Some(9));
            while let Some(frame) = Frame::read(&mut reader) {
                read.push(frame);
            }
        }
        assert_eq!(read, sent);
    }
}
