//! Two processes and a network that loses messages, without sockets and with a clock of our own:
//! many short histories from seeds, after each of which both sides must agree.

use super::{Door, Exchange, RunKey};
use crate::frame::N_MESSAGE_BYTES_MIN;
use crate::replies::ReplyQueue;
use bytes::Bytes;
use planes::messaging::CREDITS;
use planes::pulse::{INTERVAL, SILENCE_MAX};
use planes::{Call, Handler, Replies};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Handle};
use types::{ErrorKind, Result};

const N_SEEDS: u64 = 300;
const N_STEPS: usize = 400;
/// Milliseconds that a step takes at most.
const STEP_MS_MAX: u64 = 40;
/// One message of so many is lost while messages are lost.
const LOST_OF: u64 = 12;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

struct Never;

impl Handler for Never {
    fn handle(&self, _: Call) -> Replies {
        unreachable!("the simulation answers in its place")
    }
}

/// A call as its caller sees it.
struct Reading {
    queue: Arc<ReplyQueue>,
    n_asked: u64,
    n_read: u64,
    n_told: u64,
    end: Option<Result<()>>,
}

/// A run as the handler sees it.
struct Answering {
    n_asked: u64,
    n_sent: u64,
}

/// The caller, the callee, and the messages between them.
struct World {
    random: Random,
    now: Instant,
    last_beat: Instant,
    is_losing: bool,
    caller: Exchange,
    callee: Exchange,
    readings: HashMap<u64, Reading>,
    answerings: HashMap<RunKey, Answering>,
    n_ended_well: usize,
}

fn body(idx: u64, n_bytes: usize) -> Bytes {
    let mut bytes = idx.to_be_bytes().to_vec();
    bytes.resize(n_bytes.max(8), idx as u8);
    bytes.into()
}

impl World {
    fn new(seed: u64, runtime: Handle) -> Self {
        let now = Instant::now();
        let mut callee = Exchange::new(2, N_MESSAGE_BYTES_MIN);
        let served = super::Served { handler: Arc::new(Never), runtime, generation: 0 };
        callee.served.insert("a".into(), served);
        Self {
            random: Random(seed * 0x9e37_79b9 + 1),
            now,
            last_beat: now,
            is_losing: true,
            caller: Exchange::new(1, N_MESSAGE_BYTES_MIN),
            callee,
            readings: HashMap::new(),
            answerings: HashMap::new(),
            n_ended_well: 0,
        }
    }

    fn step(&mut self) {
        self.now += Duration::from_millis(self.random.below(STEP_MS_MAX));
        match self.random.below(8) {
            0 => self.open(),
            1 => self.abandon(),
            2 | 3 => self.answer(),
            4 | 5 => self.read(),
            _ => self.carry(),
        }
        if self.now - self.last_beat >= INTERVAL {
            self.last_beat = self.now;
            self.caller.beat(self.now);
            self.callee.beat(self.now);
        }
    }

    fn open(&mut self) {
        let n_asked = self.random.below(200);
        self.open_for(n_asked);
    }

    /// Makes a call for so many replies.
    fn open_for(&mut self, n_asked: u64) {
        let queue = Arc::new(ReplyQueue::default());
        let n_bytes = self.random.below(3 * N_MESSAGE_BYTES_MIN as u64) as usize;
        let call = Call {
            deadline: Duration::from_secs(9),
            trace: String::new(),
            body: body(n_asked, n_bytes),
        };
        let stream = self.caller.open("a", call, Arc::clone(&queue), self.now).unwrap();
        let reading = Reading { queue, n_asked, n_read: 0, n_told: 0, end: None };
        self.readings.insert(stream, reading);
    }

    fn abandon(&mut self) {
        let stream = self.readings.keys().min().copied();
        if let Some(stream) = stream.filter(|_| self.random.below(4) == 0) {
            self.caller.cancel(stream);
            self.readings.remove(&stream);
        }
    }

    fn answer(&mut self) {
        for start in std::mem::take(&mut self.callee.effects.starts) {
            let n_asked = u64::from_be_bytes(start.call.body[..8].try_into().unwrap());
            self.answerings.insert(start.key, Answering { n_asked, n_sent: 0 });
        }
        let running = &self.callee.runs;
        self.answerings.retain(|key, _| running.contains_key(key));
        let mut ended = Vec::new();
        for (&key, answering) in &mut self.answerings {
            let control = Arc::clone(&self.callee.runs[&key].control);
            for _ in 0..self.random.below(9) {
                if answering.n_sent == answering.n_asked {
                    self.callee.finish(key, None);
                    ended.push(key);
                    break;
                }
                if !control.may_send(answering.n_sent) {
                    break;
                }
                let n_bytes = self.random.below(2 * N_MESSAGE_BYTES_MIN as u64) as usize;
                self.callee.reply(key, [body(answering.n_sent, n_bytes)].into_iter());
                answering.n_sent += 1;
            }
        }
        self.answerings.retain(|key, _| !ended.contains(key));
    }

    fn read(&mut self) {
        for (&stream, reading) in &mut self.readings {
            let (replies, end) = reading.queue.drain();
            for reply in replies {
                let idx = u64::from_be_bytes(reply[..8].try_into().unwrap());
                assert_eq!(idx, reading.n_read, "replies come in order, without a gap");
                assert!(reply.iter().skip(8).all(|&byte| byte == idx as u8));
                reading.n_read += 1;
            }
            reading.queue.count(reading.n_read);
            if let Some(end) = end {
                reading.end = Some(end.map_or(Ok(()), Err));
            } else if reading.n_read - reading.n_told >= CREDITS as u64 / 2 {
                reading.n_told = reading.n_read;
                self.caller.credit(stream, reading.n_read);
            }
        }
        for reading in self.readings.values().filter(|reading| reading.end.is_some()) {
            match reading.end.as_ref().unwrap() {
                Ok(()) => {
                    assert_eq!(reading.n_read, reading.n_asked, "an end is a true end");
                    self.n_ended_well += 1;
                }
                Err(failure) => assert_eq!(failure.kind, ErrorKind::PeerLost),
            }
        }
        self.readings.retain(|_, reading| reading.end.is_none());
    }

    /// Carries everything that waits to the other side, but for what is lost.
    fn carry(&mut self) {
        let address = Door::Address { address: "a".into(), generation: 0 };
        while let Some(outgoing) = self.caller.take() {
            let door = if outgoing.status_to.is_some() { &address } else { &Door::Inbox };
            for message in outgoing.messages {
                assert!(message.payload.len() <= N_MESSAGE_BYTES_MIN);
                if !(self.is_losing && self.random.below(LOST_OF) == 0) {
                    self.callee.arrive(door, message.payload, self.now);
                }
            }
        }
        while let Some(outgoing) = self.callee.take() {
            for message in outgoing.messages {
                if !(self.is_losing && self.random.below(LOST_OF) == 0) {
                    self.caller.arrive(&Door::Inbox, message.payload, self.now);
                }
            }
        }
    }

    /// No more losses and no more calls: everything comes to its end.
    fn settle(&mut self) {
        self.is_losing = false;
        let until = self.now + 4 * SILENCE_MAX;
        while self.now < until {
            for _ in 0..8 {
                self.answer();
                self.carry();
                self.read();
            }
            self.now += INTERVAL;
            self.caller.beat(self.now);
            self.callee.beat(self.now);
        }
    }
}

#[test]
fn whatever_is_lost_both_sides_come_to_agree() {
    let runtime = Builder::new_current_thread().build().unwrap();
    for seed in 0..N_SEEDS {
        let mut world = World::new(seed, runtime.handle().clone());
        for _ in 0..N_STEPS {
            world.step();
        }
        // Reads, answers and credits that are under way would take many rounds of their own.
        for _ in 0..50 {
            world.settle();
            if world.readings.is_empty() && world.callee.runs.is_empty() {
                break;
            }
        }
        let World { caller, callee, readings, .. } = world;
        assert!(readings.is_empty(), "seed {seed}: {} calls never ended", readings.len());
        assert!(caller.calls.is_empty(), "seed {seed}: the caller keeps calls");
        assert!(callee.runs.is_empty(), "seed {seed}: the callee keeps handlers");
        assert!(callee.openings.is_empty(), "seed {seed}: the callee keeps beginnings");
        assert!(caller.peers.len() <= 1 && callee.peers.len() <= 1);
    }
}

#[test]
fn without_losses_every_call_ends_well() {
    let runtime = Builder::new_current_thread().build().unwrap();
    for seed in 0..N_SEEDS / 4 {
        let mut world = World::new(seed, runtime.handle().clone());
        world.is_losing = false;
        for _ in 0..5 {
            world.open();
        }
        for _ in 0..2000 {
            world.answer();
            world.carry();
            world.read();
        }
        assert!(world.readings.is_empty(), "seed {seed}");
        assert_eq!(world.n_ended_well, 5, "seed {seed}");
    }
}

#[test]
fn a_lost_credit_is_made_good() {
    let runtime = Builder::new_current_thread().build().unwrap();
    let mut world = World::new(7, runtime.handle().clone());
    world.is_losing = false;
    world.open_for(3 * CREDITS as u64);
    world.carry();
    let n_read = |world: &World| world.readings.values().map(|reading| reading.n_read).sum::<u64>();
    for _ in 0..100 {
        world.answer();
        world.carry();
        world.read();
        // What the caller says is lost.
        while world.caller.take().is_some() {}
    }
    assert_eq!(n_read(&world), CREDITS as u64, "without credits nothing is sent");
    world.caller.beat(world.now);
    for _ in 0..100 {
        world.carry();
        world.answer();
        world.read();
    }
    assert_eq!(world.n_ended_well, 1);
}

#[test]
fn the_silent_are_given_up_by_both_sides() {
    let runtime = Builder::new_current_thread().build().unwrap();
    let mut world = World::new(7, runtime.handle().clone());
    world.is_losing = false;
    world.open();
    for _ in 0..3 {
        world.carry();
        world.answer();
    }
    assert_eq!((world.caller.calls.len(), world.callee.runs.len()), (1, 1));
    // Nothing is carried any more.
    let begun = world.now;
    while !world.caller.calls.is_empty() || !world.callee.runs.is_empty() {
        world.now += INTERVAL;
        world.caller.beat(world.now);
        world.callee.beat(world.now);
        assert!(world.now - begun <= SILENCE_MAX + 2 * INTERVAL, "given up too late");
    }
    assert!(world.now - begun > SILENCE_MAX, "given up too early");
    world.read();
    assert!(world.readings.is_empty());
}

#[test]
fn a_process_that_woke_has_no_streams() {
    let runtime = Builder::new_current_thread().build().unwrap();
    let mut world = World::new(7, runtime.handle().clone());
    world.is_losing = false;
    world.open();
    world.carry();
    world.answer();
    world.callee.start_anew(3);
    world.callee.is_open = true;
    assert!(world.callee.runs.is_empty() && world.callee.peers.is_empty());
    assert_eq!(world.callee.epoch(), 3);
    world.caller.start_anew(4);
    assert!(world.caller.calls.is_empty());
    let queue = Arc::new(ReplyQueue::default());
    let call = Call { deadline: INTERVAL, trace: String::new(), body: Bytes::new() };
    let refused = world.caller.open("a", call, queue, world.now).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Unavailable);
    world.read();
    assert!(world.readings.is_empty());
}
