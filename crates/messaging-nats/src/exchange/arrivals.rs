//! What becomes of a message that has arrived.
//!
//! Frames come by two doors: the inbox, which only peers know, and the addresses, which are open to
//! calls alone. Whatever does not fit the state is left alone: the heartbeats put it right.

use super::{Calling, Exchange, N_RUNS_MAX, Opening, RunKey, Running, Start};
use crate::assembly::{Assembly, Body};
use crate::codec::Reader;
use crate::frame::{Answer, Beginning, Epoch, Frame, StreamId, read_header};
use crate::run::RunControl;
use bytes::Bytes;
use planes::Call;
use std::sync::Arc;
use std::time::{Duration, Instant};
use types::{Error, ErrorKind};

/// Calls that may have arrived in part, each of which holds a body at most.
const N_OPENINGS_MAX: usize = 64;

/// How a message came.
#[derive(Debug, Clone)]
pub(crate) enum Door {
    Inbox,
    /// By a service of an address.
    Address {
        address: Arc<str>,
        generation: u64,
    },
}

/// What an answer does to its call.
enum Step {
    Reply(Bytes),
    Wait,
    End(Option<Error>),
    Broken,
}

impl Exchange {
    /// Takes in a message, as far as it can be read.
    pub(crate) fn arrive(&mut self, door: &Door, message: Bytes, now: Instant) {
        self.stats.n_messages_received += 1;
        self.stats.n_bytes_received += message.len() as u64;
        let mut reader = Reader::new(message);
        let Some(from) = read_header(&mut reader) else {
            self.stats.n_messages_refused += 1;
            return;
        };
        self.hear(from, now);
        while !reader.is_empty() {
            let Some(frame) = Frame::read(&mut reader) else {
                self.stats.n_messages_refused += 1;
                return;
            };
            self.stats.n_frames_received += 1;
            match door {
                Door::Inbox => self.arrive_in_inbox(from, frame, now),
                Door::Address { address, generation } => {
                    self.arrive_at_address(from, frame, (address, *generation), now);
                }
            }
        }
    }

    fn hear(&mut self, from: Epoch, now: Instant) {
        if let Some(peer) = self.peers.get_mut(&from) {
            (peer.last_heard, peer.n_missed) = (now, 0);
        }
    }

    fn arrive_in_inbox(&mut self, from: Epoch, frame: Frame, now: Instant) {
        match frame {
            Frame::Answer { stream, number, answer } => {
                self.on_answer((from, stream), number, answer, now);
            }
            Frame::Credit { stream, n_read } => self.on_credit((from, stream), n_read),
            Frame::Cancel { stream } => self.cancel_run((from, stream)),
            Frame::Roll(roll) => self.on_roll(from, &roll, now),
            Frame::Open { .. } | Frame::OpenMore { .. } => {}
        }
    }

    fn arrive_at_address(
        &mut self,
        from: Epoch,
        frame: Frame,
        service: (&Arc<str>, u64),
        now: Instant,
    ) {
        match frame {
            Frame::Open { stream, deadline_ms, trace, body } => {
                let deadline = Duration::from_millis(deadline_ms);
                let call = Call { deadline, trace, body: Bytes::new() };
                self.on_open((from, stream), service, (call, body), now);
            }
            Frame::OpenMore { stream, offset, bytes } => {
                self.on_open_more((from, stream), service, (offset, &bytes), now);
            }
            Frame::Cancel { stream } => self.cancel_run((from, stream)),
            Frame::Answer { .. } | Frame::Credit { .. } | Frame::Roll(_) => {}
        }
    }

    /// The server says that nobody listens where the message with this number went.
    pub(crate) fn nobody_there(&mut self, message: u64) {
        let unheard = |calling: &Calling| calling.message == message && calling.callee.is_none();
        let of_message = self.calls.iter().filter(|(_, calling)| unheard(calling));
        for stream in of_message.map(|(&stream, _)| stream).collect::<Vec<_>>() {
            self.end_call(stream, Some(nobody_answers()));
        }
    }

    // -------------------------------------------------------------------------- as the callee

    fn on_open(
        &mut self,
        key: RunKey,
        (address, generation): (&Arc<str>, u64),
        (mut call, beginning): (Call, Beginning),
        now: Instant,
    ) {
        match self.served.get(address) {
            None => return self.refuse(key, nobody_answers(), now),
            Some(served) if served.generation != generation => return,
            Some(_) => {}
        }
        if self.runs.contains_key(&key) || self.openings.contains_key(&key) {
            return;
        }
        match Body::from(beginning) {
            Body::Whole(body) => {
                call.body = body;
                self.start(key, address, call, now);
            }
            Body::Part(part) if self.openings.len() < N_OPENINGS_MAX => {
                let address = Arc::clone(address);
                self.openings.insert(key, Opening { address, generation, call, part, since: now });
            }
            Body::Part(_) => self.refuse(key, overloaded(), now),
        }
    }

    fn on_open_more(
        &mut self,
        key: RunKey,
        service: (&Arc<str>, u64),
        (offset, bytes): (usize, &Bytes),
        now: Instant,
    ) {
        let Some(opening) = self.openings.remove(&key) else { return };
        let Opening { address, generation, mut call, part, since } = opening;
        let is_next = part.len() == offset && (&address, generation) == service;
        match part.with(bytes).filter(|_| is_next) {
            Some(Body::Whole(body)) => {
                call.body = body;
                self.start(key, &address, call, now);
            }
            Some(Body::Part(part)) => {
                self.openings.insert(key, Opening { address, generation, call, part, since });
            }
            // Something is missing, which the caller learns from hearing nothing.
            None => {}
        }
    }

    fn start(&mut self, key: RunKey, address: &Arc<str>, call: Call, now: Instant) {
        if self.runs.len() >= N_RUNS_MAX {
            return self.refuse(key, overloaded(), now);
        }
        if !self.meet(key.0, now) {
            return;
        }
        let Some(served) = self.served.get(address) else {
            return self.refuse(key, nobody_answers(), now);
        };
        let control = Arc::new(RunControl::default());
        let (handler, runtime) = (Arc::clone(&served.handler), served.runtime.clone());
        self.runs.insert(key, Running { control: Arc::clone(&control), n_frames: 0 });
        self.effects.starts.push(Start { key, call, control, handler, runtime });
    }

    fn refuse(&mut self, (peer, stream): RunKey, failure: Error, now: Instant) {
        if self.meet(peer, now) {
            let answer = Answer::Failure(failure);
            self.send_to_peer(peer, &Frame::Answer { stream, number: 0, answer });
        }
    }

    pub(super) fn on_credit(&mut self, key: RunKey, n_read: u64) {
        if let Some(running) = self.runs.get(&key) {
            self.effects.wakers.extend(running.control.credit(n_read));
        }
    }

    // -------------------------------------------------------------------------- as the caller

    /// The call, if `from` answers it; the first to be heard does.
    pub(super) fn heard_call(
        &mut self,
        from: Epoch,
        stream: StreamId,
        now: Instant,
    ) -> Option<&mut Calling> {
        let callee = self.calls.get(&stream)?.callee;
        if callee.is_none() && !self.meet(from, now) {
            return None;
        }
        let calling = self.calls.get_mut(&stream)?;
        (*calling.callee.get_or_insert(from) == from).then_some(calling)
    }

    fn on_answer(
        &mut self,
        (from, stream): (Epoch, StreamId),
        number: u64,
        answer: Answer,
        now: Instant,
    ) {
        let Some(calling) = self.heard_call(from, stream, now) else { return };
        let is_next = number == calling.n_frames;
        calling.n_frames += 1;
        let step = if is_next { step(&mut calling.part, answer) } else { Step::Broken };
        match step {
            Step::Wait => {}
            Step::Reply(body) => match calling.queue.push(body) {
                Some(waker) => self.effects.wakers.extend(waker),
                None => self.lose_call(stream),
            },
            Step::End(failure) => self.end_call(stream, failure),
            Step::Broken => self.lose_call(stream),
        }
    }
}

/// What an answer means after those before it.
fn step(part: &mut Option<Assembly>, answer: Answer) -> Step {
    let body = match (part.take(), answer) {
        (None, Answer::Reply(beginning)) => Some(Body::from(beginning)),
        (Some(assembly), Answer::More(bytes)) => assembly.with(&bytes),
        (None, Answer::End) => return Step::End(None),
        (_, Answer::Failure(failure)) => return Step::End(Some(failure)),
        (Some(_), Answer::Reply(_) | Answer::End) | (None, Answer::More(_)) => None,
    };
    match body {
        Some(Body::Whole(body)) => Step::Reply(body),
        Some(Body::Part(assembly)) => {
            *part = Some(assembly);
            Step::Wait
        }
        None => Step::Broken,
    }
}

fn nobody_answers() -> Error {
    Error::new(ErrorKind::Unavailable, "nobody answers at this address")
}

fn overloaded() -> Error {
    Error::new(ErrorKind::Overloaded, "the other side has too many calls under way")
}
