//! One connection of a reader, and the thread that works it: requests go out ahead, answers come
//! in their order, straight into the destinations.
//!
//! Only this thread writes into a destination, and it holds the destination while it does; so
//! whoever drops a read gets his memory back no sooner than the last byte has landed.

use crate::crew::Socket;
use crate::frame::Answer;
use crate::handshake::shake_hands;
use crate::limits::{
    CONNECT_MAX, DRAIN_BYTES_MAX, N_ADDRESSES_MAX, N_ATTEMPTS_MAX, N_REQUESTS_AHEAD_MAX,
    READER_IDLE_MAX, REQUEST_BYTES_AHEAD_MAX, STALL_MAX,
};
use crate::lost;
use crate::reader::{Loaded, Reader};
use crate::waiting::{Patient, is_timeout, spin, spin_on};
use futures::channel::oneshot;
use planes::{Destination, Region, Side};
use std::collections::VecDeque;
use std::io::{self, IoSliceMut, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::slice;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use types::{Error, ErrorKind, Result};

/// What a lane is given to do.
pub(crate) enum Job {
    /// Open the connection.
    Connect(oneshot::Sender<Result<()>>),
    /// Bring bytes.
    Read(ReadJob),
}

/// A read, from its request to its answer.
pub(crate) struct ReadJob {
    /// As it travels.
    pub(crate) request: Vec<u8>,
    pub(crate) into: Destination,
    /// Of all sources.
    pub(crate) n_bytes: usize,
    /// Times that it was sent.
    pub(crate) n_attempts: u32,
    /// Where the destination goes in the end; cancelled when nobody waits.
    pub(crate) reply: oneshot::Sender<Result<Destination>>,
}

type Load = (Job, Loaded);
type ReadLoad = (ReadJob, Loaded);

pub(crate) struct Lane {
    id: u64,
    peer: String,
    reader: Arc<Reader>,
    jobs: Receiver<Load>,
    /// Jobs taken and not begun, before those in `jobs`.
    next: VecDeque<Load>,
    /// Reads whose requests are sent, in order. None without a connection.
    due: VecDeque<ReadLoad>,
    connection: Option<Connection>,
}

struct Connection {
    socket: Socket,
    /// Something was read over it. Then a failure may only mean that the owner closed it while it
    /// was idle.
    is_used: bool,
}

/// A lane's place on the reader's list, which it loses even by a panic.
struct OnList {
    reader: Arc<Reader>,
    peer: String,
    lane_id: u64,
}

impl Drop for OnList {
    fn drop(&mut self) {
        self.reader.leave(&self.peer, self.lane_id);
    }
}

/// How a read did not end as its owner meant it.
enum Failure {
    /// Nobody waits for it, and much was left.
    GivenUp,
    /// The connection is of no use any more.
    Broken(Error),
    /// Nor is another one to be tried.
    Hopeless(Error),
}

impl Lane {
    pub(crate) fn new(id: u64, peer: String, reader: Arc<Reader>, jobs: Receiver<Load>) -> Self {
        let (next, due) = (VecDeque::new(), VecDeque::new());
        Self { id, peer, reader, jobs, next, due, connection: None }
    }

    /// Works until there has been nothing to do for long, or the transport is dropped.
    pub(crate) fn run(mut self) {
        let _on_list =
            OnList { reader: Arc::clone(&self.reader), lane_id: self.id, peer: self.peer.clone() };
        loop {
            if self.due.is_empty() {
                let Some(load) = self.wait() else { return };
                self.begin(load);
            }
            self.begin_more();
            if let Some(front) = self.due.pop_front() {
                self.finish(front);
            }
        }
    }

    fn wait(&mut self) -> Option<Load> {
        let soon = self.next.pop_front().or_else(|| spin(|| self.jobs.try_recv().ok()));
        if soon.is_some() {
            return soon;
        }
        loop {
            match self.jobs.recv_timeout(READER_IDLE_MAX) {
                Ok(load) => return Some(load),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout)
                    if self.reader.leave_if_idle(&self.peer, self.id) =>
                {
                    return None;
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Begins reads behind the one that is due, as long as their requests are few and small.
    fn begin_more(&mut self) {
        while !self.due.is_empty() && self.due.len() < N_REQUESTS_AHEAD_MAX {
            let Some(load) = self.next.pop_front().or_else(|| self.jobs.try_recv().ok()) else {
                return;
            };
            let ahead = self.due.iter().skip(1).map(|(job, _)| job.request.len());
            if ahead.sum::<usize>() + load.0.n_request_bytes() > REQUEST_BYTES_AHEAD_MAX {
                return self.next.push_front(load);
            }
            self.begin(load);
        }
    }

    fn begin(&mut self, (job, loaded): Load) {
        let is_given_up = match &job {
            Job::Connect(reply) => reply.is_canceled(),
            Job::Read(job) => job.reply.is_canceled(),
        };
        if is_given_up {
            return;
        }
        if let Err(failure) = self.connect() {
            return self.fail_all((job, loaded), &failure);
        }
        match job {
            // Nobody may wait for the answer any more.
            Job::Connect(reply) => drop(reply.send(Ok(()))),
            Job::Read(job) => self.send(job, loaded),
        }
    }

    fn send(&mut self, mut job: ReadJob, loaded: Loaded) {
        job.n_attempts += 1;
        let Some(connection) = &self.connection else { unreachable!("it was just made") };
        let sent = Patient::new(&*connection.socket, || false).write_all(&job.request);
        self.due.push_back((job, loaded));
        if let Err(failure) = sent {
            self.lose(broken(&failure));
        }
    }

    /// Receives what is due first.
    fn finish(&mut self, (job, loaded): ReadLoad) {
        let Some(connection) = &mut self.connection else { unreachable!("something is due") };
        match receive(&connection.socket, &job) {
            Ok(outcome) => {
                connection.is_used = true;
                job.end(outcome);
            }
            Err(failure) => {
                self.due.push_front((job, loaded));
                self.lose(failure);
            }
        }
    }

    /// Closes the connection, then sees to the reads that were due on it.
    fn lose(&mut self, failure: Failure) {
        let Some(connection) = self.connection.take() else { return };
        let is_used = connection.is_used;
        drop(connection);
        let mut due = std::mem::take(&mut self.due);
        let (error, may_retry) = match failure {
            Failure::GivenUp => {
                due.pop_front();
                // The others had no part in it.
                due.iter_mut().for_each(|(job, _)| job.n_attempts -= 1);
                (lost("the connection was closed"), true)
            }
            Failure::Broken(error) => (error, is_used),
            Failure::Hopeless(error) => (error, false),
        };
        let again = |job: &ReadJob| may_retry && job.n_attempts < N_ATTEMPTS_MAX;
        for (job, loaded) in due.into_iter().rev() {
            if again(&job) {
                self.next.push_front((Job::Read(job), loaded));
            } else {
                job.end(Err(error.clone()));
            }
        }
    }

    /// The owner is out of reach for everybody who waits for it here.
    fn fail_all(&mut self, first: Load, failure: &Error) {
        let waiting = std::mem::take(&mut self.next);
        let queued = std::iter::from_fn(|| self.jobs.try_recv().ok());
        for (job, _loaded) in std::iter::once(first).chain(waiting).chain(queued) {
            job.fail(failure.clone());
        }
    }

    /// Makes the connection unless there is one.
    fn connect(&mut self) -> Result<()> {
        if self.connection.is_none() {
            let closed = || lost("the transport was closed");
            let crew = &self.reader.crew;
            // Dialling takes its time, and whoever closes the transport waits for us.
            let stream = if crew.is_closing() { Err(closed()) } else { dial(&self.peer) }?;
            let socket = crew.adopt(stream).map_err(|_| closed())?;
            shake_hands(&socket, &self.reader.key, Side::Connecting)?;
            self.connection = Some(Connection { socket, is_used: false });
        }
        Ok(())
    }
}

/// How long a host name takes to resolve is the system's affair (`resolv.conf`).
fn dial(peer: &str) -> Result<TcpStream> {
    let addresses = peer.to_socket_addrs().map_err(|failure| lost(&failure.to_string()))?;
    let mut why = lost("its host name has no address");
    for address in addresses.take(N_ADDRESSES_MAX) {
        match TcpStream::connect_timeout(&address, CONNECT_MAX) {
            // The port of a dead owner can be the one that we are given: then we meet ourselves.
            Ok(stream) if is_itself(&stream) => why = lost("nobody listens"),
            Ok(stream) => return Ok(stream),
            Err(failure) => why = lost(&failure.to_string()),
        }
    }
    Err(why)
}

fn is_itself(stream: &TcpStream) -> bool {
    matches!((stream.local_addr(), stream.peer_addr()), (Ok(near), Ok(far)) if near == far)
}

impl Job {
    fn n_request_bytes(&self) -> usize {
        match self {
            Self::Connect(_) => 0,
            Self::Read(job) => job.request.len(),
        }
    }

    fn fail(self, failure: Error) {
        match self {
            // Nobody may wait for the answer any more.
            Self::Connect(reply) => drop(reply.send(Err(failure))),
            Self::Read(job) => job.end(Err(failure)),
        }
    }
}

impl ReadJob {
    /// Gives the destination back, or drops it and says why.
    fn end(self, outcome: Result<()>) {
        let Self { into, reply, .. } = self;
        let answer = match outcome {
            Ok(()) => Ok(into),
            Err(failure) => {
                drop(into);
                Err(failure)
            }
        };
        // If nobody waits, the destination comes back here and is dropped.
        drop(reply.send(answer));
    }
}

/// Receives the answer to `job`: its bytes, or the owner's refusal.
fn receive(stream: &TcpStream, job: &ReadJob) -> std::result::Result<Result<()>, Failure> {
    let is_given_up = || job.reply.is_canceled();
    spin_on(stream).map_err(|failure| broken(&failure))?;
    let mut stream = Patient::new(stream, is_given_up);
    let failed = |failure| match failure {
        // What looks like a standstill of the owner may be that nobody waited for it to end.
        failure if is_timeout(&failure) && is_given_up() => Failure::GivenUp,
        failure => broken(&failure),
    };
    match Answer::receive(&mut stream).map_err(failed)? {
        Answer::Bytes(n_bytes) if n_bytes == job.n_bytes as u64 => {
            receive_bytes(&mut stream, job, &is_given_up).map_err(failed)??;
            Ok(Ok(()))
        }
        Answer::Bytes(_) => {
            let message = "the owner of the memory answered another question";
            Err(Failure::Hopeless(Error::new(ErrorKind::PeerLost, message)))
        }
        Answer::Refused => {
            let message = "the transfer handle is not valid, or no longer";
            Ok(Err(Error::new(ErrorKind::NotFound, message)))
        }
        Answer::Withdrawn => Ok(Err(lost("it serves this memory no longer"))),
    }
}

fn receive_bytes(
    stream: &mut impl Read,
    job: &ReadJob,
    is_given_up: &dyn Fn() -> bool,
) -> io::Result<std::result::Result<(), Failure>> {
    let filled = job.into.regions.iter().filter(|region| region.n_bytes() > 0);
    let mut slices: Vec<IoSliceMut> = filled.map(|region| IoSliceMut::new(bytes(region))).collect();
    let (mut rest, mut n_left) = (&mut slices[..], job.n_bytes);
    while !rest.is_empty() {
        if n_left > DRAIN_BYTES_MAX && is_given_up() {
            return Ok(Err(Failure::GivenUp));
        }
        match stream.read_vectored(rest)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n_bytes => {
                n_left -= n_bytes;
                IoSliceMut::advance_slices(&mut rest, n_bytes);
            }
        }
    }
    Ok(Ok(()))
}

/// The memory of a destination's region, for as long as its job is borrowed.
#[expect(clippy::mut_from_ref, reason = "a region is an address; whose it is, the job says")]
fn bytes(region: &Region) -> &mut [u8] {
    // SAFETY: the destination is ours alone until its job ends, by its contract, and only
    // `receive_bytes` on the lane's one thread comes here, once for each region.
    unsafe { slice::from_raw_parts_mut(region.ptr(), region.n_bytes()) }
}

fn broken(failure: &io::Error) -> Failure {
    if is_timeout(failure) {
        let message = format!("nothing moved for {} s", STALL_MAX.as_secs());
        return Failure::Hopeless(lost(&message));
    }
    Failure::Broken(lost(&failure.to_string()))
}
