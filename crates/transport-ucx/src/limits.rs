//! Every limit of this transport: how long it waits, and how much of anything it takes.

use crate::patience::Patience;
use std::time::Duration;

/// How long a reader waits without a piece of its read arriving. A transfer as a whole has no
/// deadline. While bytes move, 64 MiB of pieces ([`PIECES_BYTES_MAX`]) may take this long, on a way
/// that is slow or on a machine that is overloaded: 3 MB/s.
pub(crate) const READER_PATIENCE: Patience =
    Patience { idle: Duration::from_secs(5), busy: Duration::from_secs(20) };

/// How long an owner keeps memory for a reader who fetches none of it. Longer than the reader's
/// patience, so that in the rule the reader ends it.
pub(crate) const OWNER_PATIENCE: Patience =
    Patience { idle: Duration::from_secs(10), busy: Duration::from_secs(30) };

/// Longest time for a connection to be made, for each address of a host.
pub(crate) const CONNECT_MAX: Duration = Duration::from_secs(2);

/// Longest time for each message of the handshake.
pub(crate) const HANDSHAKE_MAX: Duration = Duration::from_secs(2);

/// Longest time that UCX is given to end what is under way when the transport is dropped.
pub(crate) const SHUTDOWN_MAX: Duration = Duration::from_secs(2);

/// Longest time that copies under way are given to end before a worker is destroyed.
pub(crate) const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Calls of UCX's progress without any, after which no copy is under way: each call ends one at
/// least of every peer's, of which there are [`N_PIECES_MAX`], and does not count those that fail.
pub(crate) const N_IDLE_CALLS: usize = 64 * N_PIECES_MAX;

/// Times that a read is begun: its pair may end for a reason that is not its owner's.
pub(crate) const N_ATTEMPTS_MAX: usize = 2;

/// Longest time that UCX is given to close an endpoint, before all of it is begun anew.
pub(crate) const CLOSE_MAX: Duration = Duration::from_secs(1);

/// Pause between two attempts to open UCX anew.
pub(crate) const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// Attempts to open UCX anew, after which it stays closed: what keeps it from opening for ten
/// minutes has to be looked after by somebody.
pub(crate) const N_REOPENINGS_MAX: usize = 600;

/// Longest time that a handshake waits for UCX to be opened; well within [`HANDSHAKE_MAX`], for
/// which the other side waits.
pub(crate) const OPENING_MAX: Duration = Duration::from_secs(1);

/// Pause after a failure to accept (no descriptors are left, say).
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How often UCX is called while endpoints are being closed; it makes no event of every step.
pub(crate) const CLOSE_TICK: Duration = Duration::from_millis(1);

/// How often the clock is looked at while anything is under way.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// A tick that is this late was late because the process stood still or got no processor.
pub(crate) const ABSENCE_MIN: Duration = Duration::from_secs(1);

/// How long the thread looks for more to do before it sleeps. Waking it costs tens of
/// microseconds, and the parts of a transfer follow each other faster than that.
pub(crate) const SPIN: Duration = Duration::from_micros(50);

/// The same while a transfer is under way: longer than the other side copies 1 MiB, after which it
/// says so.
pub(crate) const SPIN_BUSY: Duration = Duration::from_micros(200);

/// How long a read that has ended waits to be told together with others: four of 256 KiB take
/// that.
pub(crate) const ANSWERS_WAIT_MAX: Duration = Duration::from_micros(80);

// The thread never sleeps on an answer: it is busy while one waits.
const _: () = assert!(ANSWERS_WAIT_MAX.as_nanos() < SPIN_BUSY.as_nanos());

/// Pieces being fetched, below which no answer waits: while the last one is fetched, whoever is
/// told may ask for the next, so that there is always one.
pub(crate) const N_FETCHING_MIN: usize = 2;

/// Commands taken between two calls of UCX.
pub(crate) const N_COMMANDS_A_TURN: usize = 64;

/// Commands waiting for the thread, beyond which reads are refused.
pub(crate) const N_COMMANDS_MAX: usize = 4096;

/// Peers, those we read from and those who read from us together.
pub(crate) const N_PAIRS_MAX: usize = 1024;

/// Connections whose other end has not proved itself yet; where more come, the first is closed.
pub(crate) const N_STRANGERS_MAX: usize = 64;

/// Handshakes with peers that connect, strangers and those that have proved themselves together,
/// and those that are about to end because they had to make room.
pub(crate) const N_HANDSHAKES_MAX: usize = 256;

/// Addresses tried for one host name.
pub(crate) const N_ADDRESSES_MAX: usize = 4;

/// Bytes of a worker's address.
pub(crate) const ADDRESS_BYTES_MAX: usize = 16 << 10;

/// Reads that one reader has asked one owner for at a time; more of them wait at the reader.
pub(crate) const N_READS_MAX: usize = 64;

/// Reads that one owner has of one reader at a time. The reader may ask for another as soon as it
/// has given one up; the owner keeps that one until its pieces on their way have ended, and each
/// has one at least.
pub(crate) const N_SERVED_MAX: usize = N_READS_MAX + N_PIECES_MAX;

/// Reads waiting at the reader for one owner, beyond which the next is refused.
pub(crate) const N_READS_WAITING_MAX: usize = 4096;

/// Pieces that an owner has on their way to one reader at a time.
pub(crate) const N_PIECES_MAX: usize = 16;

/// Bytes of the pieces that an owner has on their way to one reader at a time, beyond which the
/// next waits. UCX shares the way among them, so all may end as late as the last: see
/// [`READER_PATIENCE`].
pub(crate) const PIECES_BYTES_MAX: usize = 64 << 20;

/// Bytes of one piece: large enough for the full speed of a link, small enough to arrive well
/// within the [`READER_PATIENCE`] and to be worth giving up between two.
pub(crate) const PIECE_BYTES_MAX: usize = 16 << 20;

/// Up to this many bytes travel inside the message that announces them. They fit into one packet
/// of every transport.
pub(crate) const EAGER_BYTES_MAX: usize = 4 << 10;

/// Bytes of the words in a refusal.
pub(crate) const WORDS_BYTES_MAX: usize = 1 << 10;
