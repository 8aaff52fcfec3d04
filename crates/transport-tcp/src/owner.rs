//! The side that has the memory: one listener, a thread for each connection, and the lease tables
//! they look into.
//!
//! Whoever connects is a stranger until he has proved himself; strangers are few at a time, have
//! little time, and make room for those who come after them. A send holds the lease's memory until
//! its last byte has left, or the connection is closed.

use crate::crew::{Crew, Socket};
use crate::frame::{Answer, Request};
use crate::handshake::shake_hands;
use crate::limits::{
    ACCEPT_PAUSE, CONNECT_MAX, N_CONNECTIONS_MAX, N_STRANGERS_MAX, OWNER_IDLE_MAX, STALL_MAX,
};
use crate::waiting::{Hurried, Patient, is_timeout, spin_on};
use crate::{SCHEME, TcpConfig};
use planes::{
    ClusterKey, LeaseTable, LeasedMemory, Region, Side, Strangers, Withdraw, table_address,
};
use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, IoSlice, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::slice;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;
use types::{Error, ErrorKind, Result};

/// Room for requests that arrive while an answer is sent.
const N_BUFFER_BYTES: usize = 8 << 10;

pub(crate) struct Owner {
    hall: Arc<Hall>,
    /// `host:port` for peers.
    peer: String,
    /// Where the listener can be reached from here.
    near: SocketAddr,
    accepting: Option<JoinHandle<()>>,
}

/// What the threads of all connections share.
struct Hall {
    key: ClusterKey,
    crew: Arc<Crew>,
    tables: Mutex<HashMap<u128, Arc<LeaseTable>>>,
    n_connections: AtomicUsize,
    strangers: Arc<Strangers>,
}

/// A connection's place among all.
struct Place(Arc<Hall>);

impl Owner {
    pub(crate) fn listen(config: &TcpConfig, crew: &Arc<Crew>) -> Result<Self> {
        let refused = |failure: io::Error| {
            Error::invalid(format!("cannot listen on {}: {failure}", config.listen))
        };
        let listener = TcpListener::bind(config.listen).map_err(refused)?;
        let bound = listener.local_addr().map_err(refused)?;
        let peer = table_address::of_listener(config.advertise.as_deref(), bound)?;
        let hall = Arc::new(Hall {
            key: config.key.clone(),
            crew: Arc::clone(crew),
            tables: Mutex::default(),
            n_connections: AtomicUsize::new(0),
            strangers: Strangers::new(N_STRANGERS_MAX),
        });
        let shared = Arc::clone(&hall);
        let accepting = thread::Builder::new()
            .name("tcp-accept".into())
            .spawn(move || accept(&listener, &shared))
            .map_err(refused)?;
        Ok(Self { hall, peer, near: near(bound), accepting: Some(accepting) })
    }

    /// Lets peers read what `leases` grants, under an address of its own.
    pub(crate) fn serve(&self, leases: Arc<LeaseTable>) -> (String, Withdraw) {
        let table = planes::random::instance_id().0;
        lock(&self.hall.tables).insert(table, leases);
        let hall = Arc::clone(&self.hall);
        let withdraw = Withdraw::on_drop(move || {
            lock(&hall.tables).remove(&table);
        });
        (table_address::of_table(SCHEME, &self.peer, table), withdraw)
    }

    /// Ends the thread that accepts, once the crew is closing.
    pub(crate) fn stop(&mut self) {
        // A connection has it look. Where none can be made (the machine has lost the address, say)
        // nobody else comes either, and the thread is left to itself.
        let is_awake = TcpStream::connect_timeout(&self.near, CONNECT_MAX).is_ok();
        if let Some(accepting) = self.accepting.take().filter(|_| is_awake) {
            // Whoever panicked has told the world so.
            let _ = accepting.join();
        }
    }
}

fn near(bound: SocketAddr) -> SocketAddr {
    let ip = match bound.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, bound.port())
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is shared is consistent after every statement, so a panic elsewhere does not spoil it.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &TcpListener, hall: &Arc<Hall>) {
    loop {
        let accepted = listener.accept();
        if hall.crew.is_closing() {
            return;
        }
        match accepted {
            Ok((stream, from)) => admit(hall, stream, from),
            Err(_) => thread::sleep(ACCEPT_PAUSE),
        }
    }
}

/// Gives a connection its place and thread; closes it where there is none.
fn admit(hall: &Arc<Hall>, stream: TcpStream, from: SocketAddr) {
    let Some(place) = Place::take(hall) else {
        return tell(from, &Error::new(ErrorKind::Overloaded, "there are too many already"));
    };
    let stranger = match hall.strangers.admit(&stream) {
        Ok(stranger) => stranger,
        Err(why) => return tell(from, &Error::new(ErrorKind::Overloaded, why.to_string())),
    };
    let spawned = hall.crew.spawn("tcp-owner", move || {
        let Place(hall) = &place;
        let Ok(socket) = hall.crew.adopt(stream) else { return };
        if let Err(failure) = shake_hands(&socket, &hall.key, Side::Accepting) {
            return tell(from, &failure);
        }
        drop(stranger);
        // However a connection ends, its reader asks again or has been told.
        let _ = serve(&socket, hall);
    });
    if let Err(failure) = spawned {
        tell(from, &failure);
    }
}

/// Nobody on this side asked for the connection, so the log is who hears that it failed.
fn tell(from: SocketAddr, failure: &Error) {
    if failure.kind == ErrorKind::PeerLost {
        // Probes of a load balancer do nothing else.
        tracing::debug!(%from, %failure, "a connection for transfers ended before it began");
    } else {
        tracing::warn!(%from, %failure, "a connection for transfers was turned away");
    }
}

impl Place {
    fn take(hall: &Arc<Hall>) -> Option<Self> {
        let place = Self(Arc::clone(hall));
        let n_before = hall.n_connections.fetch_add(1, Ordering::AcqRel);
        (n_before < N_CONNECTIONS_MAX).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.n_connections.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Answers requests until the reader closes, or stands still.
fn serve(socket: &Socket, hall: &Hall) -> io::Result<()> {
    let stream: &TcpStream = socket;
    let patient = Patient::new(stream, || false);
    let mut requests = BufReader::with_capacity(N_BUFFER_BYTES, patient);
    while wait_for_request(&mut requests)? {
        let request = Request::receive(&mut Hurried::new(&mut requests, STALL_MAX))?;
        answer(stream, &request, hall)?;
        if requests.buffer().is_empty() {
            spin_on(stream)?;
        }
    }
    Ok(())
}

/// Whether another request has begun; false when the reader has closed.
fn wait_for_request(requests: &mut impl BufRead) -> io::Result<bool> {
    let since = Instant::now();
    loop {
        match requests.fill_buf() {
            Ok(begun) => return Ok(!begun.is_empty()),
            Err(failure) if is_timeout(&failure) && since.elapsed() < OWNER_IDLE_MAX => {}
            Err(failure) => return Err(failure),
        }
    }
}

fn answer(stream: &TcpStream, request: &Request, hall: &Hall) -> io::Result<()> {
    let table = lock(&hall.tables).get(&request.table).cloned();
    let Some(table) = table else { return send(stream, Answer::Withdrawn, &[]) };
    let Ok(memory) = table.pin(request.lease, request.secret) else {
        return send(stream, Answer::Refused, &[]);
    };
    let parts = request.parts.iter();
    let located: Result<Vec<Region>> =
        parts.map(|part| memory.locate(part.source, part.n_bytes)?.on_host()).collect();
    match located {
        Ok(parts) => send_parts(stream, &memory, &parts),
        Err(_) => send(stream, Answer::Refused, &[]),
    }
}

/// Sends `parts` of `memory`, which the caller holds until this returns.
fn send_parts(stream: &TcpStream, _memory: &LeasedMemory, parts: &[Region]) -> io::Result<()> {
    let n_bytes = parts.iter().map(|part| part.n_bytes() as u64).sum();
    let filled = parts.iter().filter(|part| part.n_bytes() > 0);
    let bytes: Vec<&[u8]> = filled
        // SAFETY: the part lies in memory that `locate` checked and the caller's lease keeps; an
        // owner does not write what it has lent.
        .map(|part| unsafe { slice::from_raw_parts(part.ptr(), part.n_bytes()) })
        .collect();
    send(stream, Answer::Bytes(n_bytes), &bytes)
}

/// Sends head and bytes together. Errors: no progress for `STALL_MAX`, or the stream's.
fn send(stream: &TcpStream, answer: Answer, bytes: &[&[u8]]) -> io::Result<()> {
    let head = answer.encode();
    let mut slices: Vec<IoSlice> =
        [&head[..]].iter().chain(bytes).map(|part| IoSlice::new(part)).collect();
    let (mut rest, mut patient) = (&mut slices[..], Patient::new(stream, || false));
    while !rest.is_empty() {
        match patient.write_vectored(rest)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            n_bytes => IoSlice::advance_slices(&mut rest, n_bytes),
        }
    }
    Ok(())
}
