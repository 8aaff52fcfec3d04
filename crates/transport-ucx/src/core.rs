//! The thread that owns UCX: it takes commands and events, lets UCX work, and sleeps when there is
//! nothing to do. What a pair decides as owner and as reader is in [`crate::owner`] and
//! [`crate::reader`]; here it is done. What peers say is in [`messages`], how pairs end in
//! [`endings`], and how UCX is opened again in [`reopening`].

mod door;
mod endings;
mod messages;
mod reopening;

use crate::answers::Answers;
use crate::limits::*;
use crate::lost;
use crate::ops::{Ops, ReadId};
use crate::owner::Owner;
use crate::pair::{Pair, Side};
use crate::patience::Clock;
use crate::reader::{Answer, Reader};
use crate::shared::{Command, Join, PairRef, Role, Shared, Way};
use crate::system::{Watched, wait};
use crate::ucp::{Context, Event, Worker};
use crate::wire::{CANCEL, Header, REQUEST};
use door::Door;
use std::collections::HashMap;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::thread;
use std::time::{Duration, Instant};
use types::{Error, ErrorKind, Result};

/// Starts UCX, says to `ready` how that went, and works until the transport is dropped.
pub(crate) fn run(
    shared: Arc<Shared>,
    listener: TcpListener,
    commands: Receiver<Command>,
    ready: &SyncSender<Result<()>>,
) {
    let begun = begin(&shared);
    let _ = ready.send(begun.as_ref().map(|_| ()).map_err(Clone::clone));
    let Ok(opened) = begun else { return };
    let mut core = Core::new(Desk { shared, door: Door::new(listener), commands }, opened);
    while core.work() == End::Spoilt {
        let Some(anew) = core.begin_anew() else { return };
        core = anew;
    }
    core.shut_down();
}

/// Why the thread works no longer with what it has.
#[derive(PartialEq, Eq)]
enum End {
    /// The transport was dropped.
    Stopped,
    /// UCX must be opened anew.
    Spoilt,
}

/// What the thread has to do with others of this process and with strangers, whatever becomes of
/// UCX.
struct Desk {
    shared: Arc<Shared>,
    door: Door,
    commands: Receiver<Command>,
}

/// UCX, and the descriptor that is ready to read when it has work.
struct Opened {
    ops: Ops,
    ucx_fd: RawFd,
}

struct Core {
    desk: Desk,
    ops: Ops,
    answers: Answers,
    /// By our name for them.
    pairs: HashMap<u64, Pair>,
    /// Ready to read when UCX has work.
    ucx_fd: RawFd,
    last_tick: Instant,
    /// When UCX last moved anything.
    last_moved: Instant,
    /// Since when there are operations of pairs that are no more.
    closing_since: Option<Instant>,
    /// Whether UCX must be opened anew before anything else.
    is_spoilt: bool,
}

/// Opens UCX, and tells everybody the address of the worker made there, or that there is none.
fn begin(shared: &Shared) -> Result<Opened> {
    let opened = open();
    shared.set_way(match &opened {
        Ok((_, address)) => Way::Open(address.clone()),
        Err(why) => Way::Closed(why.clone()),
    });
    opened.map(|(opened, _)| opened)
}

fn open() -> Result<(Opened, Vec<u8>)> {
    let worker = Worker::create(Context::open()?)?;
    let address = worker.address()?;
    if address.len() > ADDRESS_BYTES_MAX {
        return Err(Error::internal("the address of UCX's worker is over its limit"));
    }
    let ucx_fd = worker.fd()?;
    Ok((Opened { ops: Ops::new(worker), ucx_fd }, address))
}

impl Core {
    fn new(desk: Desk, Opened { ops, ucx_fd }: Opened) -> Self {
        let now = Instant::now();
        Self {
            desk,
            ops,
            answers: Answers::default(),
            pairs: HashMap::new(),
            ucx_fd,
            last_tick: now,
            last_moved: now,
            closing_since: None,
            is_spoilt: false,
        }
    }

    fn work(&mut self) -> End {
        let mut last_work = Instant::now();
        while !self.desk.shared.is_stopped() {
            let has_worked = self.turn();
            let now = Instant::now();
            self.answers.tell(now, self.ops.n_fetching());
            if has_worked {
                last_work = now;
            }
            if now.duration_since(self.last_tick) >= TICK {
                self.tick(now);
            }
            if self.is_spoilt {
                return End::Spoilt;
            }
            if self.has_waited(now.duration_since(last_work)) {
                self.sleep();
            } else if !has_worked {
                // Whoever shares the processor may be the one that we wait for: the peer's thread,
                // or the one that is to ask for the next read.
                thread::yield_now();
            }
        }
        End::Stopped
    }

    /// Whether that was long enough to sleep.
    fn has_waited(&self, without_work: Duration) -> bool {
        without_work >= SPIN && (without_work >= SPIN_BUSY || !self.is_busy())
    }

    /// One round over everything that may have to be done; says whether anything was.
    ///
    /// UCX is called once: a call may copy for some tens of microseconds, and a read that is asked
    /// for meanwhile is to be on its way before those under way have ended.
    fn turn(&mut self) -> bool {
        let mut has_worked = false;
        for _ in 0..N_COMMANDS_A_TURN {
            let Ok(command) = self.desk.commands.try_recv() else { break };
            self.obey(command);
            has_worked = true;
        }
        if self.desk.shared.take_cancelled() {
            self.forget_abandoned();
        }
        if self.ops.worker.progress() {
            self.last_moved = Instant::now();
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
        self.desk.shared.bell.fall_asleep();
        // What was said before the bell knew that we sleep is found here.
        let has_heard = match self.desk.commands.try_recv() {
            Ok(command) => {
                self.obey(command);
                true
            }
            Err(_) => self.desk.shared.is_stopped() || self.desk.shared.has_cancelled(),
        };
        // UCX looks for work a last time and has the descriptor tell of any that comes later, so
        // nothing is missed between the two.
        if !has_heard && self.ops.worker.may_sleep() {
            let at_most = match self.closing_since {
                Some(_) => Some(CLOSE_TICK),
                None => self.is_busy().then_some(TICK),
            };
            self.look_around(at_most);
        }
        self.desk.shared.bell.wake();
    }

    /// Whether there is anything that a clock must watch.
    fn is_busy(&self) -> bool {
        !self.ops.is_empty() || self.pairs.values().any(Pair::is_busy)
    }

    /// Waits for anything to happen outside, and looks after connections.
    fn look_around(&mut self, at_most: Option<Duration>) {
        let (door, at_most) = self.desk.door.watched(at_most);
        let fixed =
            [Watched::reading(self.ucx_fd), Watched::reading(self.desk.shared.bell.fd()), door];
        let names: Vec<u64> = self.pairs.keys().copied().collect();
        let links = names.iter().map(|name| self.pairs[name].stream.as_raw_fd());
        let mut watched: Vec<Watched> =
            fixed.into_iter().chain(links.map(Watched::reading)).collect();
        wait(&mut watched, at_most);
        if watched[1].is_ready() {
            self.desk.shared.bell.silence();
        }
        if watched[2].is_ready() {
            self.desk.door.open(&self.desk.shared);
        }
        let ended = names.iter().zip(&watched[fixed.len()..]).filter(|(_, link)| link.is_ready());
        for (name, _) in ended {
            self.link_ended(*name);
        }
    }

    fn tick(&mut self, now: Instant) {
        if now.duration_since(self.last_tick) > ABSENCE_MIN {
            // It was we who stood still; what happened meanwhile has yet to be seen.
            self.last_moved = now;
            self.closing_since = self.closing_since.map(|_| now);
        }
        self.last_tick = now;
        self.look_around(Some(Duration::ZERO));
        let clock = Clock { now, last_moved: self.last_moved };
        let stalled = self.pairs.iter().filter(|(_, pair)| pair.is_stalled(clock));
        let stalled: Vec<u64> = stalled.map(|(name, _)| *name).collect();
        for name in stalled {
            self.died(name, "nothing has moved for too long");
        }
        if !self.ops.has_orphans(|pair| self.pairs.contains_key(&pair)) {
            self.closing_since = None;
        }
        if self.closing_since.is_some_and(|since| now.duration_since(since) > CLOSE_MAX) {
            self.is_spoilt = true;
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
}
