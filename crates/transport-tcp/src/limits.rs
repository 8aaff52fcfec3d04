//! Every limit of this transport: how long it waits, and how much of anything it takes.

use std::time::Duration;

/// Longest time without a single byte of progress while some are due, on either side. A transfer
/// as a whole has no deadline, so a large one takes as long as it takes.
pub(crate) const STALL_MAX: Duration = Duration::from_secs(5);

/// How often a call that waits looks up. (The system's own timeouts cannot be the rule: a send
/// that moved some bytes and then stood still counts as progress to it, more than once.)
pub(crate) const TICK: Duration = Duration::from_secs(1);

/// How long a thread looks for more to do before it waits to be woken, which takes tens of
/// microseconds.
pub(crate) const SPIN: Duration = Duration::from_micros(50);

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

/// Connections of an owner whose other end has not proved itself yet; where more come, the first
/// is closed.
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

/// Times that a read is begun, as an owner may have closed a connection while it was idle.
pub(crate) const N_ATTEMPTS_MAX: u32 = 2;
