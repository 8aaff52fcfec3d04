//! The connection of two processes of which one reads from the other, and how it is parted from.

use crate::owner::Owner;
use crate::patience::Clock;
use crate::reader::Reader;
use crate::shared::PairRef;
use crate::ucp::Endpoint;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

/// What is said on the connection of a pair that is closed on purpose.
const FAREWELL: [u8; 1] = *b".";

/// See the file's description.
pub(crate) struct Pair {
    pub(crate) endpoint: Endpoint,
    /// The peer's name for it.
    pub(crate) theirs: u64,
    /// The connection of the handshake, open while the peer lives.
    pub(crate) stream: TcpStream,
    pub(crate) known_as: Arc<PairRef>,
    pub(crate) side: Side,
}

/// What we are to the peer.
pub(crate) enum Side {
    Owner(Owner),
    Reader(Reader),
}

/// What an event on the connection of a pair means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The peer has closed the pair.
    Farewell,
    /// The peer's process has ended without a word.
    Death,
}

impl Pair {
    /// Says farewell to the peer, and to everybody who waits; leaves the endpoint to be closed.
    pub(crate) fn part(mut self, why: &str) -> Endpoint {
        self.known_as.lose();
        // It fits into the socket's empty buffer, and whoever does not hear it is dead.
        let _ = self.stream.write(&FAREWELL);
        if let Side::Reader(reader) = self.side {
            reader.lose(why);
        }
        self.endpoint
    }

    /// Whether anything is under way.
    pub(crate) fn is_busy(&self) -> bool {
        match &self.side {
            Side::Owner(owner) => owner.is_busy(),
            Side::Reader(reader) => reader.is_busy(),
        }
    }

    /// Whether the peer has kept anybody waiting for too long.
    pub(crate) fn is_stalled(&self, clock: Clock) -> bool {
        match &self.side {
            Side::Owner(owner) => owner.is_stalled(clock),
            Side::Reader(reader) => reader.is_stalled(clock),
        }
    }

    /// What its connection says when that is ready to read: nothing is said on it after the
    /// handshake but that the pair is closed.
    pub(crate) fn ending(&mut self) -> Ending {
        match self.stream.read(&mut [0; FAREWELL.len()]) {
            Ok(1..) => Ending::Farewell,
            Ok(0) | Err(_) => Ending::Death,
        }
    }
}
