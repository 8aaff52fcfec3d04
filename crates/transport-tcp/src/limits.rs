//! Every limit of this transport: how long it waits, and how much of anything it takes.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

/// Longest time without a single byte of progress while some are due, on either side. A transfer
/// as a whole has no deadline, so a large one takes as long as it takes. A side whose last call
/// made progress and then stood still notices after twice this time at most.
pub(crate) const STALL_MAX: Duration = Duration::from_secs(5);

/// Longest time for a connection to be made.
pub(crate) const CONNECT_MAX: Duration = Duration::from_secs(2);

/// Longest time for both sides to prove themselves.
pub(crate) const HANDSHAKE_MAX: Duration = Duration::from_secs(2);

/// How long a reader keeps a connection that it does not use.
pub(crate) const READER_IDLE_MAX: Duration = Duration::from_secs(60);

/// How long an owner keeps one; longer, so that in the rule the reader closes.
pub(crate) const OWNER_IDLE_MAX: Duration = Duration::from_secs(120);

/// Pause after a failure to accept (no file descriptors are left, say).
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections that one owner serves at a time.
pub(crate) const N_CONNECTIONS_MAX: usize = 512;

/// Connections of an owner whose other end has not proved itself yet.
pub(crate) const N_STRANGERS_MAX: usize = 64;

/// Connections of a reader to one owner.
pub(crate) const N_LANES_PER_PEER_MAX: usize = 4;

/// Connections of a reader to all owners.
pub(crate) const N_LANES_MAX: usize = 256;

/// Addresses tried for one host name.
pub(crate) const N_ADDRESSES_MAX: usize = 4;

/// Reads waiting in one lane, beyond which the next is refused.
pub(crate) const N_READS_PER_LANE_MAX: usize = 4096;

/// Bytes under way in a lane beyond which the next read opens another.
pub(crate) const LANE_BYTES: usize = 8 << 20;

/// Requests that a lane has sent and that are not answered yet.
pub(crate) const N_REQUESTS_AHEAD_MAX: usize = 16;

/// Bytes of the requests behind the one being answered. They must fit into any socket's buffers:
/// the owner reads none while it sends, and we receive none while we send.
pub(crate) const REQUEST_BYTES_AHEAD_MAX: usize = 8 << 10;

/// What is left of a read that nobody waits for: up to this it is received all the same, beyond it
/// the connection is closed.
pub(crate) const DRAIN_BYTES_MAX: usize = 1 << 20;

/// Sources in one request.
pub(crate) const N_SOURCES_MAX: usize = 65_536;

/// Times that a read is begun, as an owner may have closed a connection while it was idle.
pub(crate) const N_ATTEMPTS_MAX: u32 = 2;

/// A stream whose reads and writes fail from some moment on, however it drips.
///
/// A single call still takes as long as the timeout of the stream itself, so the whole takes no
/// longer than both.
pub(crate) struct Hurried<S> {
    stream: S,
    until: Instant,
}

impl<S> Hurried<S> {
    pub(crate) fn new(stream: S, within: Duration) -> Self {
        Self { stream, until: Instant::now() + within }
    }

    fn check(&self) -> io::Result<()> {
        let is_over = Instant::now() >= self.until;
        if is_over { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

impl<S: Read> Read for Hurried<S> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.check()?;
        self.stream.read(into)
    }
}

impl<S: Write> Write for Hurried<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.check()?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Whether a call on a stream ended because its time was up.
pub(crate) fn is_timeout(failure: &io::Error) -> bool {
    matches!(failure.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
