//! The thread that owns UCX: it takes commands and events, lets UCX work, and sleeps when there is
//! nothing to do. What a pair decides as owner and as reader is in [`crate::owner`] and
//! [`crate::reader`]; here it is done.

use crate::limits::*;
use crate::lost;
use crate::ops::{Op, Ops, ReadId};
use crate::owner::Owner;
use crate::pairing;
use crate::reader::{Answer, Reader};
use crate::shared::{Command, Join, PairRef, Role, Shared};
use crate::system::{Watched, wait};
use crate::ucp::{Body, Context, Endpoint, Event, Worker};
use crate::wire::{CANCEL, DATA, Header, REPLY, REQUEST, Request, decode_reply, encode_reply};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant};
use types::{Error, ErrorKind, Result};
use ucx_sys::{UCS_OK, ucs_status_t};

/// What is said on the connection of a pair that is closed on purpose.
const FAREWELL: [u8; 1] = *b".";

/// Starts UCX, says to `ready` how that went, and works until the transport is dropped.
pub(crate) fn run(
    shared: Arc<Shared>,
    listener: TcpListener,
    commands: Receiver<Command>,
    ready: &SyncSender<Result<()>>,
) {
    let begun = Core::new(shared, listener, commands);
    let _ = ready.send(begun.as_ref().map(|_| ()).map_err(Clone::clone));
    if let Ok(core) = begun {
        core.work();
    }
}

struct Core {
    shared: Arc<Shared>,
    listener: TcpListener,
    commands: Receiver<Command>,
    ops: Ops,
    /// By our name for them.
    pairs: HashMap<u64, Pair>,
    /// Ready to read when UCX has work.
    ucx_fd: RawFd,
    last_tick: Instant,
    /// Since when there are operations of pairs that are no more.
    closing_since: Option<Instant>,
}

/// The connection of two processes of which one reads from the other.
struct Pair {
    endpoint: Endpoint,
    /// The peer's name for it.
    theirs: u64,
    /// The connection of the handshake, open while the peer lives.
    stream: TcpStream,
    known_as: Arc<PairRef>,
    side: Side,
}

enum Side {
    Owner(Owner),
    Reader(Reader),
}

/// Opens UCX, and tells everybody the address of the worker made there.
fn begin(shared: &Shared) -> Result<(Ops, RawFd)> {
    let worker = Worker::create(Context::open()?)?;
    let address = worker.address()?;
    if address.len() > ADDRESS_BYTES_MAX {
        return Err(Error::internal("the address of UCX's worker is over its limit"));
    }
    *shared.worker() = address;
    let ucx_fd = worker.fd()?;
    Ok((Ops::new(worker), ucx_fd))
}

impl Pair {
    /// Says farewell to the peer, and to everybody who waits; leaves the endpoint to be closed.
    fn part(mut self, why: &str) -> Endpoint {
        self.known_as.lose();
        // It fits into the socket's empty buffer, and whoever does not hear it is dead.
        let _ = self.stream.write(&FAREWELL);
        if let Side::Reader(reader) = self.side {
            reader.lose(why);
        }
        self.endpoint
    }

    /// Whether anything is under way.
    fn is_busy(&self) -> bool {
        match &self.side {
            Side::Owner(owner) => owner.is_busy(),
            Side::Reader(reader) => reader.is_busy(),
        }
    }
}

impl Core {
    fn new(
        shared: Arc<Shared>,
        listener: TcpListener,
        commands: Receiver<Command>,
    ) -> Result<Self> {
        let (ops, ucx_fd) = begin(&shared)?;
        let (pairs, last_tick) = (HashMap::new(), Instant::now());
        let closing_since = None;
        Ok(Self { shared, listener, commands, ops, pairs, ucx_fd, last_tick, closing_since })
    }

    fn work(mut self) {
        let mut last_work = Instant::now();
        while !self.shared.is_stopped() {
            let has_worked = self.turn();
            let now = Instant::now();
            if has_worked {
                last_work = now;
            }
            if now.duration_since(self.last_tick) >= TICK {
                self.tick(now);
            }
            if now.duration_since(last_work) >= SPIN {
                self.sleep();
            }
        }
        self.shut_down();
    }

    /// One round over everything that may have to be done; says whether anything was.
    fn turn(&mut self) -> bool {
        let mut has_worked = false;
        for _ in 0..N_TURNS_MAX {
            let Ok(command) = self.commands.try_recv() else { break };
            self.obey(command);
            has_worked = true;
        }
        if self.shared.take_cancelled() {
            self.forget_abandoned();
        }
        for _ in 0..N_TURNS_MAX {
            if !self.ops.worker.progress() {
                break;
            }
            self.take_events();
            has_worked = true;
        }
        // Operations that ended at once are reported without UCX working.
        self.take_events() || has_worked
    }

    fn take_events(&mut self) -> bool {
        let mut has_worked = false;
        while let Some(event) = self.ops.worker.next_event() {
            has_worked = true;
            match event {
                Event::Message { kind, header, body } => self.hear(kind, &header, body),
                Event::Done { op, status } => self.done(op, status),
                Event::Failed { endpoint, status } => self.failed(endpoint, status),
            }
        }
        has_worked
    }

    // ------------------------------------------------------------------------------- sleeping

    fn sleep(&mut self) {
        self.shared.bell.fall_asleep();
        // What was said before the bell knew that we sleep is found here.
        let has_heard = match self.commands.try_recv() {
            Ok(command) => {
                self.obey(command);
                true
            }
            Err(_) => self.shared.is_stopped() || self.shared.has_cancelled(),
        };
        if !has_heard && self.ops.worker.may_sleep() {
            let at_most = match self.closing_since {
                Some(_) => Some(CLOSE_TICK),
                None => self.is_busy().then_some(TICK),
            };
            self.look_around(at_most);
        }
        self.shared.bell.wake();
    }

    /// Whether there is anything that a clock must watch.
    fn is_busy(&self) -> bool {
        !self.ops.is_empty() || self.pairs.values().any(Pair::is_busy)
    }

    /// Waits for anything to happen outside, and looks after connections.
    fn look_around(&mut self, at_most: Option<Duration>) {
        let fixed = [self.ucx_fd, self.shared.bell.fd(), self.listener.as_raw_fd()];
        let names: Vec<u64> = self.pairs.keys().copied().collect();
        let links = names.iter().map(|name| self.pairs[name].stream.as_raw_fd());
        let mut watched: Vec<Watched> =
            fixed.into_iter().chain(links).map(Watched::reading).collect();
        wait(&mut watched, at_most);
        if watched[2].is_ready() {
            self.accept();
        }
        let ended = names.iter().zip(&watched[fixed.len()..]).filter(|(_, link)| link.is_ready());
        for (name, _) in ended {
            self.link_ended(*name);
        }
    }

    /// Nothing is said on a link after the handshake but that the pair is closed; a link that ends
    /// without a word belonged to a process that died.
    fn link_ended(&mut self, name: u64) {
        let Some(pair) = self.pairs.get_mut(&name) else { return };
        match pair.stream.read(&mut [0; FAREWELL.len()]) {
            Ok(1..) => self.close(name, "it has closed the pair"),
            Ok(0) | Err(_) => self.died(name, "its process has ended"),
        }
    }

    /// Ends a pair whose peer died, or stands still. In the middle of a transfer, it may have left behind shared
    /// memory that UCX does not get over: a place in our queue that was taken and never filled
    /// makes a worker deaf, and what was sent to the peer's queue may never be given up. Both were
    /// seen with 1.13 and 1.22. So UCX is then begun anew; reads from others begin again.
    fn died(&mut self, name: u64, why: &str) {
        let was_busy = self.pairs.get(&name).is_some_and(Pair::is_busy);
        self.close(name, why);
        if was_busy {
            self.begin_anew();
        }
    }

    fn accept(&mut self) {
        for _ in 0..N_STRANGERS_MAX {
            let Ok((stream, _)) = self.listener.accept() else { return };
            pairing::receive(&self.shared, stream);
        }
    }

    fn tick(&mut self, now: Instant) {
        self.last_tick = now;
        self.look_around(Some(Duration::ZERO));
        let is_stalled = |pair: &Pair| match &pair.side {
            Side::Owner(owner) => owner.is_stalled(now),
            Side::Reader(reader) => reader.is_stalled(now),
        };
        let stalled: Vec<u64> =
            self.pairs.iter().filter(|(_, pair)| is_stalled(pair)).map(|(name, _)| *name).collect();
        for name in stalled {
            self.died(name, "nothing has moved for too long");
        }
        if !self.ops.has_orphans(|pair| self.pairs.contains_key(&pair)) {
            self.closing_since = None;
        }
        if self.closing_since.is_some_and(|since| now.duration_since(since) > CLOSE_MAX) {
            self.begin_anew();
        }
    }

    /// Ends all pairs, and UCX with them, and opens it again. A worker that is destroyed touches
    /// no memory any more, so all of it is let go of.
    fn begin_anew(&mut self) {
        tracing::warn!("UCX is opened anew after the loss of a peer");
        self.closing_since = None;
        let pairs: Vec<Pair> = self.pairs.drain().map(|(_, pair)| pair).collect();
        match begin(&self.shared) {
            Ok((ops, ucx_fd)) => (self.ops, self.ucx_fd) = (ops, ucx_fd),
            Err(failure) => {
                tracing::error!(%failure, "the transport ucx ends");
                self.shared.stop();
            }
        }
        for pair in pairs {
            pair.part("UCX was opened anew");
        }
    }

    // ------------------------------------------------------------------------------- commands

    fn obey(&mut self, command: Command) {
        match command {
            Command::Join(join) => self.join(join),
            Command::Read { pair: name, order } => {
                let pair = self.pairs.get_mut(&name).map(|pair| &mut pair.side);
                let Some(Side::Reader(reader)) = pair else {
                    let (into, why) = (order.into, lost("it was lost a moment ago"));
                    let _ = order.reply.send(Answer::Lost { into, why });
                    return;
                };
                reader.take(order);
                self.pump(name);
            }
        }
    }

    fn join(&mut self, join: Join) {
        let Join { name, role, peer, stream, reply } = join;
        if self.pairs.len() >= N_PAIRS_MAX || self.pairs.contains_key(&name) {
            let message = "too many peers are connected over UCX";
            let _ = reply.send(Err(Error::new(ErrorKind::Overloaded, message)));
            return;
        }
        let now = Instant::now();
        let side = match role {
            Role::Owner => Side::Owner(Owner::new(peer.table, now)),
            Role::Reader => Side::Reader(Reader::new(now)),
        };
        let joined = self.ops.worker.connect(&peer.worker).map(|endpoint| {
            let known_as = Arc::new(PairRef::new(name));
            let known = Arc::clone(&known_as);
            let pair = Pair { endpoint, theirs: peer.pair, stream, known_as, side };
            self.pairs.insert(name, pair);
            known
        });
        let _ = reply.send(joined);
    }

    fn forget_abandoned(&mut self) {
        let names: Vec<u64> = self.pairs.keys().copied().collect();
        for name in names {
            let Some(pair) = self.pairs.get_mut(&name) else { continue };
            let Side::Reader(reader) = &mut pair.side else { continue };
            for read in reader.forget_abandoned() {
                let header = Header::about(pair.theirs, read);
                self.ops.tell((&pair.endpoint, name), CANCEL, header, Vec::new());
            }
            self.pump(name);
        }
    }

    /// Sends what may be sent to the peer of a pair.
    fn pump(&mut self, name: u64) {
        let (ops, now) = (&mut self.ops, Instant::now());
        let Some(pair) = self.pairs.get_mut(&name) else { return };
        match &mut pair.side {
            Side::Owner(owner) => {
                while let Some(piece) = owner.next_piece(now) {
                    let (pair_name, read, place) = (pair.theirs, piece.read, piece.place);
                    let header = Header { pair: pair_name, read, place };
                    let id = ReadId { pair: name, read };
                    ops.offer(&pair.endpoint, id, header, (piece.region, piece.pin));
                }
            }
            Side::Reader(reader) => {
                while let Some((read, request)) = reader.next_request(now) {
                    let header = Header::about(pair.theirs, read);
                    ops.tell((&pair.endpoint, name), REQUEST, header, request.encode());
                }
            }
        }
    }

    // --------------------------------------------------------------------------------- events

    fn hear(&mut self, kind: u32, header: &[u8], body: Body) {
        let header = Header::decode(header).filter(|header| self.pairs.contains_key(&header.pair));
        match (kind, header, body) {
            (REQUEST, Some(header), Body::Bytes(body)) => self.on_request(header, &body),
            (CANCEL, Some(header), Body::Bytes(_)) => self.on_cancel(header),
            (DATA, Some(header), body) => self.on_data(header, body),
            (REPLY, Some(header), Body::Bytes(body)) => self.on_reply(header, &body),
            // Of a pair that is no more, or from somebody who speaks otherwise.
            (_, _, Body::Announced(announced)) => self.ops.worker.refuse(announced),
            (_, _, Body::Bytes(_)) => {}
        }
    }

    fn on_request(&mut self, Header { pair: name, read, .. }: Header, body: &[u8]) {
        let Some(pair) = self.pairs.get_mut(&name) else { return };
        let Side::Owner(owner) = &mut pair.side else { return };
        let table = self.shared.tables().get(&owner.table).cloned();
        let asked = Request::decode(body)
            .and_then(|request| owner.ask(read, &request, table.as_deref()))
            .unwrap_or_else(|refusal| Some(Err(refusal)));
        self.reply(name, read, asked);
        self.pump(name);
    }

    fn reply(&mut self, name: u64, read: u64, outcome: Option<Result<()>>) {
        let (Some(pair), Some(outcome)) = (self.pairs.get(&name), outcome) else { return };
        let header = Header::about(pair.theirs, read);
        self.ops.tell((&pair.endpoint, name), REPLY, header, encode_reply(&outcome));
    }

    fn on_cancel(&mut self, Header { pair: name, read, .. }: Header) {
        let Some(pair) = self.pairs.get_mut(&name) else { return };
        if let Side::Owner(owner) = &mut pair.side {
            owner.cancel(read);
        }
    }

    fn on_data(&mut self, Header { pair: name, read, place }: Header, body: Body) {
        let n_bytes = match &body {
            Body::Bytes(bytes) => bytes.len(),
            Body::Announced(announced) => announced.n_bytes,
        };
        let side = self.pairs.get_mut(&name).map(|pair| &mut pair.side);
        let landing = match side {
            Some(Side::Reader(reader)) => reader.land(read, place, n_bytes),
            _ => Ok(None),
        };
        match (landing, body) {
            (Ok(Some((at, into))), Body::Announced(announced)) => {
                // SAFETY: `land` gave a part of `into` of that length. That memory is written only
                // by UCX until the read ends, even where a faulty owner sends a part twice.
                unsafe { self.ops.fetch(announced, ReadId { pair: name, read }, (at, into)) };
            }
            (Ok(Some((at, into))), Body::Bytes(bytes)) => {
                // SAFETY: `land` gave a part of `into` of that length, which `into` keeps.
                unsafe { at.ptr().copy_from_nonoverlapping(bytes.as_ptr(), n_bytes) };
                drop(into);
                self.landed(ReadId { pair: name, read }, n_bytes);
            }
            (landing, body) => {
                if let Body::Announced(announced) = body {
                    self.ops.worker.refuse(announced);
                }
                if let Err(failure) = landing {
                    self.close(name, &failure.message);
                }
            }
        }
    }

    fn landed(&mut self, id: ReadId, n_bytes: usize) {
        let side = self.pairs.get_mut(&id.pair).map(|pair| &mut pair.side);
        if let Some(Side::Reader(reader)) = side {
            reader.landed(id.read, n_bytes, Instant::now());
            self.pump(id.pair);
        }
    }

    fn on_reply(&mut self, Header { pair: name, read, .. }: Header, body: &[u8]) {
        let side = self.pairs.get_mut(&name).map(|pair| &mut pair.side);
        if let Some(Side::Reader(reader)) = side {
            reader.replied(read, decode_reply(body));
            self.pump(name);
        }
    }

    fn done(&mut self, op: u64, status: ucs_status_t) {
        let outcome = || match status {
            UCS_OK => Ok(()),
            _ => Err(lost(&self.ops.worker.words(status))),
        };
        let outcome = outcome();
        match (self.ops.finish(op), outcome) {
            (Some(Op::Piece { pair, read, n_bytes, .. }), outcome) => {
                let side = self.pairs.get_mut(&pair).map(|pair| &mut pair.side);
                let Some(Side::Owner(owner)) = side else { return };
                let reply = owner.sent((read, n_bytes), outcome, Instant::now());
                self.reply(pair, read, reply);
                self.pump(pair);
            }
            (Some(Op::Receive { pair, read, n_bytes, _into }), Ok(())) => {
                drop(_into);
                self.landed(ReadId { pair, read }, n_bytes);
            }
            (Some(Op::Receive { pair, .. }), Err(failure)) => self.died(pair, &failure.message),
            // Whoever cannot be told anything is noticed by the endpoint's failure.
            (Some(Op::Message { .. } | Op::Close { .. }) | None, _) => {}
        }
    }

    fn failed(&mut self, endpoint: usize, status: ucs_status_t) {
        let found = self.pairs.iter().find(|(_, pair)| pair.endpoint.id() == endpoint);
        if let Some((name, _)) = found {
            let (name, why) = (*name, self.ops.worker.words(status));
            self.died(name, &why);
        }
    }

    /// Ends a pair. Memory of operations under way is kept until UCX has ended them.
    fn close(&mut self, name: u64, why: &str) {
        let Some(pair) = self.pairs.remove(&name) else { return };
        tracing::debug!(why, "a pair over UCX was closed");
        self.closing_since.get_or_insert_with(Instant::now);
        let endpoint = pair.part(why);
        self.ops.close(endpoint, name);
    }

    fn shut_down(mut self) {
        let names: Vec<u64> = self.pairs.keys().copied().collect();
        for name in names {
            self.close(name, "the transport was closed");
        }
        let give_up = Instant::now() + SHUTDOWN_MAX;
        while !self.ops.is_empty() && Instant::now() < give_up {
            self.turn();
        }
    }
}
