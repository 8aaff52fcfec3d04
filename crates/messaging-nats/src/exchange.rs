//! All streams of this process, as a plain state machine: what is called, what is answered, and the
//! frames that go out because of it.
//!
//! What arrives is in `arrivals`, what time brings is in `heartbeat`. Must not know sockets or
//! tasks, and reads no clock.

mod arrivals;
mod heartbeat;
#[cfg(test)]
mod simulation;

use crate::assembly::{Assembly, cut};
use crate::frame::{
    Answer, Epoch, Frame, N_FRAME_BYTES, N_HEADER_BYTES, N_MESSAGE_BYTES_MIN, N_TRACE_BYTES_MAX,
    StreamId,
};
use crate::lane::{Envelope, Lane, Message};
use crate::replies::ReplyQueue;
use crate::run::RunControl;
use crate::stats::Stats;
use async_nats::Subject;
use bytes::Bytes;
use planes::{Call, Handler};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;
use tokio::runtime::Handle;
use types::{Error, ErrorKind, Result};

pub(crate) use arrivals::Door;

/// Calls of this process that may be under way.
const N_CALLS_MAX: usize = 16 * 1024;
/// Calls to this process that may be under way.
const N_RUNS_MAX: usize = 16 * 1024;
/// Processes that this one may have streams in common with.
const N_PEERS_MAX: usize = 4096;
/// Bytes waiting for one place above which handlers wait, calls are refused, and what can be said
/// again is not said.
const N_LANE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Under which subject a process hears from its peers; the rest is its epoch and a last word.
const INBOXES: &str = "_INBOX.triptych";
/// The last word of the subject that frames are sent to.
pub(crate) const FRAMES: &str = "frames";

/// The subject of everything that is meant for a process, but for the calls to its addresses.
pub(crate) fn inbox(epoch: Epoch, last_word: impl std::fmt::Display) -> String {
    format!("{INBOXES}.{epoch:032x}.{last_word}")
}

/// A call to this process: who calls, and the caller's number.
pub(crate) type RunKey = (Epoch, StreamId);

/// A call that this process has made.
struct Calling {
    address: Arc<str>,
    /// The number of the message that brings the call.
    message: u64,
    /// Who answers, as soon as anything was heard.
    callee: Option<Epoch>,
    opened: Instant,
    n_beats: u32,
    /// Frames that have arrived.
    n_frames: u64,
    /// The reply that has arrived in part.
    part: Option<Assembly>,
    queue: Arc<ReplyQueue>,
}

/// A call that this process answers.
struct Running {
    control: Arc<RunControl>,
    /// Frames that were sent.
    n_frames: u64,
}

/// A call that has arrived in part.
struct Opening {
    address: Arc<str>,
    generation: u64,
    call: Call,
    part: Assembly,
    since: Instant,
}

/// A process that this one has streams in common with.
struct Peer {
    subject: Subject,
    lane: Lane,
    last_heard: Instant,
    /// Beats since then.
    n_missed: u32,
    /// Handlers that wait for room.
    blocked: Vec<Arc<RunControl>>,
}

/// Who answers at an address.
pub(crate) struct Served {
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) runtime: Handle,
    /// Tells this service of the address from an earlier one.
    pub(crate) generation: u64,
}

/// A handler to start.
pub(crate) struct Start {
    pub(crate) key: RunKey,
    pub(crate) call: Call,
    pub(crate) control: Arc<RunControl>,
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) runtime: Handle,
}

/// Where frames wait to go.
enum Place {
    Address(Arc<str>),
    Peer(Epoch),
}

/// Messages for one subject.
pub(crate) struct Outgoing {
    pub(crate) subject: Subject,
    /// Whose inbox the server shall tell when nobody listens there.
    pub(crate) status_to: Option<Epoch>,
    pub(crate) messages: VecDeque<Message>,
}

/// What is to be done once the exchange is not locked any more.
#[derive(Default)]
pub(crate) struct Effects {
    pub(crate) wakers: Vec<Waker>,
    pub(crate) starts: Vec<Start>,
}

/// The state of all streams.
pub(crate) struct Exchange {
    envelope: Envelope,
    /// Whether the inbox of the epoch is listened to.
    pub(crate) is_open: bool,
    pub(crate) served: HashMap<Arc<str>, Served>,
    pub(crate) effects: Effects,
    pub(crate) stats: Stats,
    next_stream: StreamId,
    calls: HashMap<StreamId, Calling>,
    runs: HashMap<RunKey, Running>,
    openings: HashMap<RunKey, Opening>,
    peers: HashMap<Epoch, Peer>,
    to_addresses: HashMap<Arc<str>, Lane>,
    waiting: VecDeque<Place>,
}

/// What a call ends with when the other side cannot be relied upon any more.
fn lost() -> Error {
    Error::new(ErrorKind::PeerLost, "the other side of the call was lost")
}

impl Exchange {
    pub(crate) fn new(epoch: Epoch, n_message_bytes_max: usize) -> Self {
        let mut exchange = Self {
            envelope: Envelope { epoch, n_message_bytes_max: 0, next_number: 0 },
            is_open: true,
            served: HashMap::new(),
            effects: Effects::default(),
            stats: Stats::default(),
            next_stream: 1,
            calls: HashMap::new(),
            runs: HashMap::new(),
            openings: HashMap::new(),
            peers: HashMap::new(),
            to_addresses: HashMap::new(),
            waiting: VecDeque::new(),
        };
        exchange.limit(n_message_bytes_max);
        exchange
    }

    /// The server takes messages of so many bytes; less than we need is none of our limits.
    pub(crate) fn limit(&mut self, n_message_bytes_max: usize) {
        self.envelope.n_message_bytes_max = n_message_bytes_max.max(N_MESSAGE_BYTES_MIN);
    }

    /// The life of this process that its peers know.
    pub(crate) fn epoch(&self) -> Epoch {
        self.envelope.epoch
    }

    /// Makes a call. Errors: too many (`Overloaded`), no inbox just now (`Unavailable`).
    pub(crate) fn open(
        &mut self,
        address: &str,
        call: Call,
        queue: Arc<ReplyQueue>,
        now: Instant,
    ) -> Result<StreamId> {
        if !self.is_open {
            return Err(Error::new(ErrorKind::Unavailable, "the process is just starting anew"));
        }
        let n_waiting = self.to_addresses.get(address).map_or(0, Lane::n_bytes);
        if self.calls.len() >= N_CALLS_MAX || n_waiting > N_LANE_BYTES_MAX {
            return Err(Error::new(ErrorKind::Overloaded, "too many calls are under way"));
        }
        let stream = self.next_stream;
        self.next_stream += 1;
        let (address, message) = self.send_call(address, stream, call);
        let calling = Calling {
            address,
            message,
            callee: None,
            opened: now,
            n_beats: 0,
            n_frames: 0,
            part: None,
            queue,
        };
        self.calls.insert(stream, calling);
        Ok(stream)
    }

    fn send_call(&mut self, address: &str, stream: StreamId, call: Call) -> (Arc<str>, u64) {
        let address = match self.to_addresses.get_key_value(address) {
            Some((known, _)) => Arc::clone(known),
            None => Arc::from(address),
        };
        let Call { deadline, mut trace, body } = call;
        if trace.len() > N_TRACE_BYTES_MAX {
            trace.clear();
        }
        let n_more_max = self.n_body_bytes_max();
        let (body, more) = cut(&body, n_more_max - trace.len(), n_more_max);
        let deadline_ms = deadline.as_micros().div_ceil(1000).try_into().unwrap_or(u64::MAX);
        let mut offset = body.bytes.len();
        let message =
            self.send_to_address(&address, &Frame::Open { stream, deadline_ms, trace, body });
        for bytes in more {
            let n_bytes = bytes.len();
            self.send_to_address(&address, &Frame::OpenMore { stream, offset, bytes });
            offset += n_bytes;
        }
        (address, message)
    }

    /// The most of a body that one message can carry, in bytes.
    fn n_body_bytes_max(&self) -> usize {
        self.envelope.n_message_bytes_max - N_HEADER_BYTES - N_FRAME_BYTES
    }

    /// Ends a call that nobody waits for any more.
    pub(crate) fn cancel(&mut self, stream: StreamId) {
        if let Some(calling) = self.calls.remove(&stream) {
            self.send_cancel(stream, &calling);
        }
    }

    fn send_cancel(&mut self, stream: StreamId, calling: &Calling) {
        match calling.callee {
            Some(callee) => self.send_to_peer(callee, &Frame::Cancel { stream }),
            None => {
                self.send_to_address(&calling.address, &Frame::Cancel { stream });
            }
        }
    }

    /// Tells the callee how many replies have been read.
    pub(crate) fn credit(&mut self, stream: StreamId, n_read: u64) {
        if let Some(callee) = self.calls.get(&stream).and_then(|calling| calling.callee) {
            self.send_to_peer(callee, &Frame::Credit { stream, n_read });
        }
    }

    /// Ends a call with what the caller shall see last.
    fn end_call(&mut self, stream: StreamId, failure: Option<Error>) {
        if let Some(calling) = self.calls.remove(&stream) {
            self.effects.wakers.extend(calling.queue.finish(failure));
        }
    }

    /// Gives a call up, of which something is missing.
    fn lose_call(&mut self, stream: StreamId) {
        if let Some(calling) = self.calls.remove(&stream) {
            self.send_cancel(stream, &calling);
            self.effects.wakers.extend(calling.queue.finish(Some(lost())));
        }
    }

    /// Sends what a handler has answered; nothing if it has been cancelled.
    pub(crate) fn reply(&mut self, key: RunKey, bodies: impl Iterator<Item = Bytes>) {
        let n_body_bytes_max = self.n_body_bytes_max();
        for body in bodies {
            let (beginning, more) = cut(&body, n_body_bytes_max, n_body_bytes_max);
            self.answer(key, Answer::Reply(beginning));
            more.into_iter().for_each(|bytes| self.answer(key, Answer::More(bytes)));
        }
        if let (Some(running), Some(peer)) = (self.runs.get(&key), self.peers.get_mut(&key.0))
            && peer.lane.n_bytes() > N_LANE_BYTES_MAX
        {
            running.control.block();
            peer.blocked.push(Arc::clone(&running.control));
        }
    }

    /// Ends a run with what the caller shall see last; nothing if it has been cancelled.
    pub(crate) fn finish(&mut self, key: RunKey, failure: Option<Error>) {
        self.answer(key, failure.map_or(Answer::End, Answer::Failure));
        self.runs.remove(&key);
    }

    fn answer(&mut self, key: RunKey, answer: Answer) {
        if let Some(running) = self.runs.get_mut(&key) {
            let (peer, stream) = key;
            let frame = Frame::Answer { stream, number: running.n_frames, answer };
            running.n_frames += 1;
            self.send_to_peer(peer, &frame);
        }
    }

    fn cancel_run(&mut self, key: RunKey) {
        self.openings.remove(&key);
        if let Some(running) = self.runs.remove(&key) {
            self.effects.wakers.extend(running.control.cancel());
        }
    }

    /// Drops all streams, and goes on as another process that knows nobody.
    pub(crate) fn start_anew(&mut self, epoch: Epoch) {
        for calling in std::mem::take(&mut self.calls).into_values() {
            self.effects.wakers.extend(calling.queue.finish(Some(lost())));
        }
        for running in std::mem::take(&mut self.runs).into_values() {
            self.effects.wakers.extend(running.control.cancel());
        }
        self.openings.clear();
        self.peers.clear();
        self.to_addresses.clear();
        self.waiting.clear();
        self.envelope.epoch = epoch;
        self.is_open = false;
    }

    /// Ends all streams, and says so to the other sides.
    pub(crate) fn close(&mut self) {
        self.is_open = false;
        for stream in self.calls.keys().copied().collect::<Vec<_>>() {
            self.lose_call(stream);
        }
        for key in self.runs.keys().copied().collect::<Vec<_>>() {
            self.answer(key, Answer::Failure(lost()));
            self.cancel_run(key);
        }
    }

    fn send_to_address(&mut self, address: &Arc<str>, frame: &Frame) -> u64 {
        if !self.to_addresses.contains_key(address) {
            self.to_addresses.insert(Arc::clone(address), Lane::default());
            self.waiting.push_back(Place::Address(Arc::clone(address)));
        }
        let lane = self.to_addresses.get_mut(address).expect("it is there now");
        self.stats.n_frames_sent += 1;
        lane.push(frame, &mut self.envelope)
    }

    fn send_to_peer(&mut self, epoch: Epoch, frame: &Frame) {
        let Some(peer) = self.peers.get_mut(&epoch) else { return };
        let can_be_said_again =
            matches!(frame, Frame::Credit { .. } | Frame::Cancel { .. } | Frame::Roll(_));
        if can_be_said_again && peer.lane.n_bytes() > N_LANE_BYTES_MAX {
            return;
        }
        if peer.lane.is_empty() {
            self.waiting.push_back(Place::Peer(epoch));
        }
        self.stats.n_frames_sent += 1;
        peer.lane.push(frame, &mut self.envelope);
    }

    /// Makes sure that a peer is known, unless too many are.
    fn meet(&mut self, epoch: Epoch, now: Instant) -> bool {
        let is_full = self.peers.len() >= N_PEERS_MAX;
        if is_full && !self.peers.contains_key(&epoch) {
            return false;
        }
        self.peers.entry(epoch).or_insert_with(|| Peer {
            subject: Subject::from(inbox(epoch, FRAMES)),
            lane: Lane::default(),
            last_heard: now,
            n_missed: 0,
            blocked: Vec::new(),
        });
        true
    }

    /// Whether anything waits to be taken.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Takes what waits for one place.
    pub(crate) fn take(&mut self) -> Option<Outgoing> {
        while let Some(place) = self.waiting.pop_front() {
            let outgoing = match place {
                Place::Address(address) => self.take_to_address(&address),
                Place::Peer(epoch) => self.take_to_peer(epoch),
            };
            if let Some(outgoing) = outgoing {
                let messages = &outgoing.messages;
                self.stats.n_messages_sent += messages.len() as u64;
                let n_bytes: usize = messages.iter().map(|message| message.payload.len()).sum();
                self.stats.n_bytes_sent += n_bytes as u64;
                return Some(outgoing);
            }
        }
        None
    }

    fn take_to_address(&mut self, address: &Arc<str>) -> Option<Outgoing> {
        let messages = self.to_addresses.remove(address)?.take();
        let subject = Subject::from(address.as_ref());
        Some(Outgoing { subject, status_to: Some(self.envelope.epoch), messages })
    }

    fn take_to_peer(&mut self, epoch: Epoch) -> Option<Outgoing> {
        let peer = self.peers.get_mut(&epoch)?;
        let wakers = peer.blocked.drain(..).filter_map(|control| control.unblock());
        self.effects.wakers.extend(wakers);
        let (subject, messages) = (peer.subject.clone(), peer.lane.take());
        Some(Outgoing { subject, status_to: None, messages })
    }
}
