//! What the thread of UCX and everybody else have in common: commands one way, and the state that
//! both look at.

use crate::handshake::Hello;
use crate::limits::{N_COMMANDS_MAX, N_STRANGERS_MAX, OPENING_MAX};
use crate::reader::Order;
use crate::system::Bell;
use planes::{ClusterKey, LeaseTable, Strangers};
use std::collections::HashMap;
use std::io;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use types::{Error, ErrorKind, Result};

/// What the thread is asked to do.
pub(crate) enum Command {
    /// Make a pair of us and a peer that has proved itself.
    Join(Join),
    /// Read from the peer of a pair.
    Read { pair: u64, order: Order },
}

/// A pair to be made.
pub(crate) struct Join {
    /// What the peer will call it.
    pub(crate) name: u64,
    pub(crate) role: Role,
    /// What the peer said.
    pub(crate) peer: Hello,
    /// The connection of the handshake.
    pub(crate) stream: TcpStream,
    pub(crate) reply: SyncSender<Result<Arc<PairRef>>>,
}

/// What we are to the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Owner,
    Reader,
}

/// A pair, as others than the thread know it.
pub(crate) struct PairRef {
    pub(crate) name: u64,
    is_lost: AtomicBool,
}

/// How peers reach us over UCX.
pub(crate) enum Way {
    /// By the address of our worker.
    Open(Vec<u8>),
    /// UCX is being opened.
    Opening,
    /// UCX cannot be opened, and why.
    Closed(Error),
}

/// See the file's description.
pub(crate) struct Shared {
    pub(crate) key: ClusterKey,
    /// `host:port` of our handshakes.
    pub(crate) host: String,
    /// Peers that connect and are no pair yet.
    pub(crate) n_handshakes: AtomicUsize,
    /// Those of them that have not proved themselves yet.
    pub(crate) strangers: Arc<Strangers>,
    pub(crate) bell: Bell,
    way: Mutex<Way>,
    way_changed: Condvar,
    tables: Mutex<HashMap<u128, Arc<LeaseTable>>>,
    commands: SyncSender<Command>,
    is_stopped: AtomicBool,
    has_cancelled: AtomicBool,
}

/// Of a read that nobody waits for any longer.
pub(crate) struct Notice {
    shared: Arc<Shared>,
    /// Whether the read has no answer yet.
    pub(crate) is_needed: bool,
}

impl Drop for Notice {
    fn drop(&mut self) {
        if self.is_needed {
            self.shared.has_cancelled.store(true, Ordering::Release);
            self.shared.bell.ring();
        }
    }
}

impl PairRef {
    pub(crate) fn new(name: u64) -> Self {
        Self { name, is_lost: AtomicBool::new(false) }
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Acquire)
    }

    pub(crate) fn lose(&self) {
        self.is_lost.store(true, Ordering::Release);
    }
}

impl Shared {
    /// Errors: no descriptors are left.
    pub(crate) fn new(key: ClusterKey, host: String) -> io::Result<(Arc<Self>, Receiver<Command>)> {
        let (commands, received) = sync_channel(N_COMMANDS_MAX);
        let shared = Self {
            key,
            host,
            n_handshakes: AtomicUsize::new(0),
            strangers: Strangers::new(N_STRANGERS_MAX),
            bell: Bell::new()?,
            way: Mutex::new(Way::Opening),
            way_changed: Condvar::new(),
            tables: Mutex::default(),
            commands,
            is_stopped: AtomicBool::new(false),
            has_cancelled: AtomicBool::new(false),
        };
        Ok((Arc::new(shared), received))
    }

    /// Tells everybody how peers reach us from now on.
    pub(crate) fn set_way(&self, way: Way) {
        *self.way.lock().unwrap_or_else(PoisonError::into_inner) = way;
        self.way_changed.notify_all();
    }

    /// The address of our UCX worker; waits for a moment while UCX is being opened.
    ///
    /// Errors: there is no UCX at the moment (`Unavailable`).
    pub(crate) fn worker(&self) -> Result<Vec<u8>> {
        let way = self.way.lock().unwrap_or_else(PoisonError::into_inner);
        let is_opening = |way: &mut Way| matches!(way, Way::Opening);
        let waited = self.way_changed.wait_timeout_while(way, OPENING_MAX, is_opening);
        let (way, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let why = match &*way {
            Way::Open(address) => return Ok(address.clone()),
            Way::Opening => "it is being opened anew",
            Way::Closed(why) => &why.message,
        };
        let message = format!("there is no UCX at the moment: {why}");
        Err(Error::new(ErrorKind::Unavailable, message))
    }

    /// The lease tables that peers may read from.
    pub(crate) fn tables(&self) -> MutexGuard<'_, HashMap<u128, Arc<LeaseTable>>> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a command to the thread. Errors: too many are waiting (`Overloaded`), or the
    /// transport was closed (`PeerLost`).
    pub(crate) fn command(&self, command: Command) -> Result<()> {
        use std::sync::mpsc::TrySendError::{Disconnected, Full};
        self.commands.try_send(command).map_err(|refused| match refused {
            Full(_) => Error::new(ErrorKind::Overloaded, "too many transfers are waiting"),
            Disconnected(_) => crate::lost("the transport was closed"),
        })?;
        self.bell.ring();
        Ok(())
    }

    /// Tells the thread, when dropped while it is needed, that somebody waits no longer.
    pub(crate) fn notice_on_drop(self: &Arc<Self>) -> Notice {
        Notice { shared: Arc::clone(self), is_needed: true }
    }

    /// Whether somebody waits no longer, since that was last taken.
    pub(crate) fn has_cancelled(&self) -> bool {
        self.has_cancelled.load(Ordering::Relaxed)
    }

    /// As above, and forgets it.
    pub(crate) fn take_cancelled(&self) -> bool {
        self.has_cancelled() && self.has_cancelled.swap(false, Ordering::AcqRel)
    }

    /// Ends the thread.
    pub(crate) fn stop(&self) {
        self.is_stopped.store(true, Ordering::Release);
        self.bell.ring();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Acquire)
    }
}
