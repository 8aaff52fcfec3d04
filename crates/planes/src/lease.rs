//! The owner's table of memory that peers may read: who may, until when.
//!
//! A lease ends by release or at its deadline, whichever comes first; the memory is kept until the
//! last read in progress has ended too. A slot's generation rises each time it is reused, so a
//! handle of an earlier lease never matches.

use crate::random;
use crate::transport::{Region, Source};
use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};
use types::{Error, ErrorKind, LeaseId, Result, Secret};

/// Leases that one table may have at a time.
pub const N_LEASES_MAX: usize = 65_536;

/// How often the reaper looks at the deadlines.
const REAP_INTERVAL: Duration = Duration::from_millis(100);

/// Memory under a lease, and what keeps it.
pub struct LeasedMemory {
    /// What peers may read; a source names a region by index.
    pub regions: Vec<Region>,
    /// Keeps the memory; dropped when the lease and all reads have ended.
    pub keep: Box<dyn Any + Send + Sync>,
}

/// The leases that one owner has granted.
#[derive(Default)]
pub struct LeaseTable {
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
    n_expired: u64,
}

struct Slot {
    generation: u32,
    lease: Option<Lease>,
}

struct Lease {
    secret: Secret,
    deadline: Instant,
    memory: Arc<LeasedMemory>,
}

impl LeaseTable {
    /// Grants a lease until `deadline`. Errors: too many leases (`Overloaded`).
    pub fn grant(&self, memory: LeasedMemory, deadline: Instant) -> Result<(LeaseId, Secret)> {
        let lease = Lease { secret: random::secret(), deadline, memory: Arc::new(memory) };
        let secret = lease.secret;
        let id = self.lock().put(lease)?;
        Ok((id, secret))
    }

    /// The memory of a lease, kept for as long as the caller holds it.
    ///
    /// Errors: no such lease, or it has ended, or the secret is wrong (all `NotFound`).
    pub fn pin(&self, id: LeaseId, secret: Secret) -> Result<Arc<LeasedMemory>> {
        let slots = self.lock();
        let lease = slots.find(id, secret).ok_or_else(refused)?;
        Ok(Arc::clone(&lease.memory))
    }

    /// Ends a lease; nothing happens if it has ended already.
    pub fn release(&self, id: LeaseId, secret: Secret) {
        let ended = {
            let mut slots = self.lock();
            slots.find(id, secret).is_some().then(|| slots.take(id)).flatten()
        };
        drop(ended);
    }

    /// Ends all leases whose deadline has passed at `now`; gives their number.
    pub fn reap(&self, now: Instant) -> usize {
        let expired = self.lock().take_expired(now);
        expired.len()
    }

    /// Ends all leases, as after a time in which peers must have given us up.
    pub fn revoke_all(&self) {
        let ended = self.lock().take_where(|_| true);
        drop(ended);
    }

    /// Leases in force.
    pub fn n_leases(&self) -> usize {
        let slots = self.lock();
        slots.slots.len() - slots.free.len()
    }

    /// Leases that ended at their deadline so far.
    pub fn n_expired(&self) -> u64 {
        self.lock().n_expired
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        // The table is consistent after every statement, so a panic elsewhere does not spoil it.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LeasedMemory {
    /// The address and length of `n_bytes` at `source`. Errors: outside of the lease (`NotFound`).
    pub fn locate(&self, source: Source, n_bytes: usize) -> Result<Region> {
        let region = self.regions.get(source.region_idx).ok_or_else(refused)?;
        let end = source.offset.checked_add(n_bytes).ok_or_else(refused)?;
        if end > region.n_bytes() {
            return Err(refused());
        }
        Ok(region.part(source.offset, n_bytes))
    }
}

impl Slots {
    fn put(&mut self, lease: Lease) -> Result<LeaseId> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slots.len() < N_LEASES_MAX => {
                self.slots.push(Slot { generation: 0, lease: None });
                self.slots.len() as u32 - 1
            }
            None => return Err(Error::new(ErrorKind::Overloaded, "too many transfers under way")),
        };
        let found = &mut self.slots[slot as usize];
        found.generation = found.generation.wrapping_add(1);
        found.lease = Some(lease);
        Ok(LeaseId { slot, generation: found.generation })
    }

    fn find(&self, id: LeaseId, secret: Secret) -> Option<&Lease> {
        let slot = self.slots.get(id.slot as usize)?;
        let lease = slot.lease.as_ref()?;
        (slot.generation == id.generation && lease.secret == secret).then_some(lease)
    }

    fn take(&mut self, id: LeaseId) -> Option<Lease> {
        let lease = self.slots[id.slot as usize].lease.take()?;
        self.free.push(id.slot);
        Some(lease)
    }

    fn take_expired(&mut self, now: Instant) -> Vec<Lease> {
        let expired = self.take_where(|lease| lease.deadline <= now);
        self.n_expired += expired.len() as u64;
        expired
    }

    fn take_where(&mut self, is_over: impl Fn(&Lease) -> bool) -> Vec<Lease> {
        let over: Vec<LeaseId> = (0..)
            .zip(&self.slots)
            .filter(|(_, slot)| slot.lease.as_ref().is_some_and(&is_over))
            .map(|(idx, slot)| LeaseId { slot: idx, generation: slot.generation })
            .collect();
        over.into_iter().filter_map(|id| self.take(id)).collect()
    }
}

/// A thread with its own clock that ends leases at their deadline; stops when dropped.
pub struct Reaper {
    alive: Option<Arc<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Reaper {
    /// Starts reaping `table`.
    pub fn start(table: &Arc<LeaseTable>) -> Self {
        let alive = Arc::new(());
        let (is_alive, table) = (Arc::downgrade(&alive), Arc::downgrade(table));
        let thread = thread::Builder::new()
            .name("lease-reaper".into())
            .spawn(move || reap_while_alive(&is_alive, &table))
            .expect("the operating system gives a thread");
        Self { alive: Some(alive), thread: Some(thread) }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.alive = None;
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

fn reap_while_alive(is_alive: &Weak<()>, table: &Weak<LeaseTable>) {
    while is_alive.strong_count() > 0 {
        let Some(table) = table.upgrade() else { return };
        table.reap(Instant::now());
        drop(table);
        thread::park_timeout(REAP_INTERVAL);
    }
}

fn refused() -> Error {
    Error::new(ErrorKind::NotFound, "the transfer handle is not valid, or no longer")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(bytes: &'static [u8], keep: Arc<()>) -> LeasedMemory {
        // SAFETY: static bytes are always valid, and leases are only read.
        let region = unsafe { Region::new(bytes.as_ptr().cast_mut(), bytes.len()) };
        LeasedMemory { regions: vec![region], keep: Box::new(keep) }
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn a_handle_opens_its_own_lease_only() {
        let table = LeaseTable::default();
        let keep = Arc::new(());
        let (id, secret) = table.grant(memory(b"abc", keep.clone()), later()).unwrap();
        assert!(table.pin(id, secret).is_ok());
        assert!(table.pin(id, Secret(secret.0 ^ 1)).is_err(), "a wrong secret");
        let stale = LeaseId { generation: id.generation + 1, ..id };
        assert!(table.pin(stale, secret).is_err(), "another generation");
        table.release(id, secret);
        assert!(table.pin(id, secret).is_err(), "released");
        let (again, _) = table.grant(memory(b"def", keep.clone()), later()).unwrap();
        assert_eq!(again.slot, id.slot, "the slot is used again");
        assert!(table.pin(again, secret).is_err(), "the old secret on the new lease");
    }

    #[test]
    fn memory_is_kept_until_the_last_read_ends() {
        let table = LeaseTable::default();
        let keep = Arc::new(());
        let (id, secret) = table.grant(memory(b"abc", keep.clone()), later()).unwrap();
        let pinned = table.pin(id, secret).unwrap();
        table.release(id, secret);
        assert_eq!((table.n_leases(), Arc::strong_count(&keep)), (0, 2));
        drop(pinned);
        assert_eq!(Arc::strong_count(&keep), 1);
    }

    #[test]
    fn the_reaper_needs_nobody_to_call_it() {
        let table = Arc::new(LeaseTable::default());
        let keep = Arc::new(());
        let soon = Instant::now() + Duration::from_millis(20);
        table.grant(memory(b"abc", keep.clone()), soon).unwrap();
        let _reaper = Reaper::start(&table);
        let give_up = Instant::now() + Duration::from_secs(10);
        while Arc::strong_count(&keep) > 1 {
            assert!(Instant::now() < give_up, "the lease was not reaped");
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!((table.n_leases(), table.n_expired()), (0, 1));
    }

    #[test]
    fn a_source_outside_of_the_lease_is_refused() {
        let memory = memory(b"abc", Arc::new(()));
        let check = |region_idx, offset, n_bytes, is_ok| {
            let found = memory.locate(Source { region_idx, offset }, n_bytes);
            assert_eq!(found.is_ok(), is_ok, "{region_idx} {offset} {n_bytes}");
        };
        check(0, 0, 3, true);
        check(0, 3, 0, true);
        check(0, 1, 3, false);
        check(0, usize::MAX, 2, false);
        check(1, 0, 1, false);
    }
}
