//! The side that wants bytes: which connection a read takes.
//!
//! A connection is a lane with its own thread. A read takes the first lane of its owner that has
//! little to do; when all have much, it opens another, up to a limit. So a few small reads share
//! one connection back to back, and a large one does not hold up the next.

use crate::Answer;
use crate::crew::Crew;
use crate::frame::Request;
use crate::lane::{Job, Lane, ReadJob};
use crate::limits::{LANE_BYTES, N_LANES_MAX, N_LANES_PER_PEER_MAX, N_READS_PER_LANE_MAX};
use futures::channel::oneshot;
use planes::{ClusterKey, Destination};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use types::{Error, ErrorKind, Result};

pub(crate) struct Reader {
    pub(crate) key: ClusterKey,
    pub(crate) crew: Arc<Crew>,
    lanes: Mutex<Lanes>,
}

#[derive(Default)]
struct Lanes {
    /// By `host:port`, oldest first.
    of_peer: HashMap<String, Vec<Door>>,
    n_lanes: usize,
    n_lanes_so_far: u64,
}

/// The way into a lane.
struct Door {
    lane_id: u64,
    jobs: mpsc::Sender<(Job, Loaded)>,
    load: Arc<Load>,
}

/// What a lane has to do.
#[derive(Default)]
struct Load {
    n_reads: AtomicUsize,
    n_bytes: AtomicUsize,
}

/// A job's part of a lane's load, for as long as it exists.
pub(crate) struct Loaded {
    load: Arc<Load>,
    n_bytes: usize,
}

impl Reader {
    pub(crate) fn new(key: ClusterKey, crew: Arc<Crew>) -> Self {
        Self { key, crew, lanes: Mutex::default() }
    }

    /// Opens a lane to `peer` unless there is one.
    pub(crate) fn connect(self: &Arc<Self>, peer: &str) -> Result<Answer<()>> {
        let (reply, answer) = oneshot::channel();
        self.submit(peer, Job::Connect(reply), 0)?;
        Ok(answer)
    }

    /// Begins a read.
    pub(crate) fn read(
        self: &Arc<Self>,
        peer: &str,
        request: &Request,
        into: Destination,
    ) -> Result<Answer<Destination>> {
        let (reply, answer) = oneshot::channel();
        let n_bytes = request.parts.iter().map(|part| part.n_bytes).sum();
        let request = request.encode();
        let job = ReadJob { request, into, n_bytes, n_attempts: 0, reply };
        self.submit(peer, Job::Read(job), n_bytes)?;
        Ok(answer)
    }

    fn submit(self: &Arc<Self>, peer: &str, job: Job, n_bytes: usize) -> Result<()> {
        let mut lanes = self.lock();
        if self.crew.is_closing() {
            return Err(crate::lost("the transport was closed"));
        }
        if !lanes.has_room(peer) {
            self.open(&mut lanes, peer)?;
        }
        // A lane leaves the list under this lock, so one that is found takes the job.
        let door = lanes.choose(peer).ok_or_else(too_many)?;
        let loaded = Loaded::new(&door.load, n_bytes);
        let sent = door.jobs.send((job, loaded));
        // What is left of a job is dropped outside of the lock.
        drop(lanes);
        sent.map_err(|_| crate::lost("its connection failed"))
    }

    /// Opens another lane to `peer`, if one may be; else one of the old ones will do.
    fn open(self: &Arc<Self>, lanes: &mut Lanes, peer: &str) -> Result<()> {
        let n_of_peer = lanes.of_peer.get(peer).map_or(0, Vec::len);
        if n_of_peer >= N_LANES_PER_PEER_MAX || lanes.n_lanes >= N_LANES_MAX {
            return Ok(());
        }
        let (sender, jobs) = mpsc::channel();
        let lane_id = lanes.n_lanes_so_far;
        let lane = Lane::new(lane_id, peer.to_owned(), Arc::clone(self), jobs);
        self.crew.spawn("tcp-reader", move || lane.run())?;
        lanes.n_lanes_so_far += 1;
        lanes.n_lanes += 1;
        let door = Door { lane_id, jobs: sender, load: Arc::default() };
        lanes.of_peer.entry(peer.to_owned()).or_default().push(door);
        Ok(())
    }

    /// Takes a lane off the list unless it has a job after all. Whether it was taken off.
    pub(crate) fn leave_if_idle(&self, peer: &str, lane_id: u64) -> bool {
        let mut lanes = self.lock();
        let is_needed =
            |door: &Door| door.lane_id == lane_id && door.load.n_reads.load(Ordering::Acquire) > 0;
        let is_idle = !lanes.of_peer.get(peer).is_some_and(|doors| doors.iter().any(is_needed));
        if is_idle {
            lanes.remove(peer, lane_id);
        }
        is_idle
    }

    /// Takes a lane off the list if it is on it: its thread ends.
    pub(crate) fn leave(&self, peer: &str, lane_id: u64) {
        self.lock().remove(peer, lane_id);
    }

    /// Ends the lanes once they have done, or given up, what they were given.
    pub(crate) fn close(&self) {
        let doors = std::mem::take(&mut *self.lock());
        drop(doors);
    }

    fn lock(&self) -> MutexGuard<'_, Lanes> {
        // The lanes are consistent after every statement, so a panic elsewhere does not spoil them.
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lanes {
    fn has_room(&self, peer: &str) -> bool {
        self.of_peer.get(peer).is_some_and(|doors| doors.iter().any(Door::has_room))
    }

    fn remove(&mut self, peer: &str, lane_id: u64) {
        let Some(doors) = self.of_peer.get_mut(peer) else { return };
        let n_before = doors.len();
        doors.retain(|door| door.lane_id != lane_id);
        let n_left = doors.len();
        self.n_lanes -= n_before - n_left;
        if n_left == 0 {
            self.of_peer.remove(peer);
        }
    }

    /// The first lane with room, else the one with least to do; none when all are full.
    fn choose(&self, peer: &str) -> Option<&Door> {
        let doors = self.of_peer.get(peer)?;
        let with_room = doors.iter().find(|door| door.has_room());
        let least = || doors.iter().min_by_key(|door| door.load.n_bytes.load(Ordering::Relaxed));
        with_room.or_else(least).filter(|door| !door.is_full())
    }
}

impl Door {
    fn has_room(&self) -> bool {
        self.load.n_bytes.load(Ordering::Relaxed) < LANE_BYTES && !self.is_full()
    }

    fn is_full(&self) -> bool {
        self.load.n_reads.load(Ordering::Relaxed) >= N_READS_PER_LANE_MAX
    }
}

impl Loaded {
    fn new(load: &Arc<Load>, n_bytes: usize) -> Self {
        load.n_reads.fetch_add(1, Ordering::AcqRel);
        load.n_bytes.fetch_add(n_bytes, Ordering::Relaxed);
        Self { load: Arc::clone(load), n_bytes }
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.load.n_bytes.fetch_sub(self.n_bytes, Ordering::Relaxed);
        self.load.n_reads.fetch_sub(1, Ordering::AcqRel);
    }
}

fn too_many() -> Error {
    Error::new(ErrorKind::Overloaded, "too many transfers under way")
}
