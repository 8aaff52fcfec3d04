//! Peers that die or stand still in the middle of transfers, in processes of their own.

use crate::child::{N_LENT, Process};
use crate::common::{lend, pattern, start};
use futures::future::join_all;
use planes::{Destination, LeaseTable, Region, RemoteHandle, Source, Transport};
use std::sync::Arc;
use std::time::{Duration, Instant};
use types::{ErrorKind, Result};

/// How many peers are killed in one test.
const N_KILLS: u32 = 20;

/// Bytes of one read; it takes some milliseconds.
const N_READ: usize = 16 << 20;

const N_AT_ONCE: usize = 4;

/// Longest time from a peer's death until everybody knows.
const NOTICE_MAX: Duration = Duration::from_secs(3);

pub(crate) const SIGSTOP: i32 = 19;
const SIGCONT: i32 = 18;

/// What memory is filled with when the transport has let go of it.
const POISON: u8 = 0x55;

/// Memory that outlives every transfer, to see whether anything is written to it too late.
struct Landing(Box<[u8]>);

/// Fills the memory when dropped.
struct Poison(Region);

impl Drop for Poison {
    fn drop(&mut self) {
        // SAFETY: the memory outlives the test's transfers, and the transport has let go of it.
        unsafe { self.0.ptr().write_bytes(POISON, self.0.n_bytes()) };
    }
}

impl Landing {
    fn new() -> Self {
        Self(vec![0; N_READ].into())
    }

    fn destination(&mut self) -> Destination {
        // SAFETY: nobody touches the memory until the destination is dropped or given back.
        let region = unsafe { Region::new(self.0.as_mut_ptr(), self.0.len()) };
        Destination { regions: vec![region], keep: Box::new(Poison(region)) }
    }

    fn is_poisoned(&self) -> bool {
        self.0.iter().all(|byte| *byte == POISON)
    }
}

/// Reads parts of what is lent, and checks that right bytes came or none.
async fn read_all(
    reader: &Arc<dyn Transport>,
    handle: &RemoteHandle,
    landings: &mut [Landing],
    expected: &[u8],
) -> Vec<Result<()>> {
    let reads = landings.iter_mut().enumerate().map(|(i, landing)| {
        let offset = i * N_READ;
        let source = Source { region_idx: 0, offset };
        let read = reader.read(handle.clone(), vec![source], landing.destination());
        async move {
            read.await.map(|landed| {
                let region = landed.regions[0];
                // SAFETY: the destination was given back, so nobody writes to it.
                let bytes = unsafe { std::slice::from_raw_parts(region.ptr(), region.n_bytes()) };
                assert!(bytes == &expected[offset..offset + N_READ], "wrong bytes");
            })
        }
    });
    join_all(reads).await
}

fn landings() -> Vec<Landing> {
    (0..N_AT_ONCE).map(|_| Landing::new()).collect()
}

async fn eventually(what: &str, within: Duration, is_true: impl Fn() -> bool) {
    let give_up = Instant::now() + within;
    while !is_true() {
        assert!(Instant::now() < give_up, "it never happened that {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_killed_in_the_middle_is_noticed_and_harms_no_byte() {
    let (reader, expected) = (start(), pattern(N_LENT));
    let mut n_lost = 0;
    for i in 0..N_KILLS {
        let (process, handle) = Process::owner();
        let mut landings = landings();
        let first = read_all(&reader, &handle, &mut landings, &expected).await;
        assert!(first.iter().all(Result::is_ok), "{first:?}");
        let killer = std::thread::spawn(move || {
            // Anywhere in the transfers that begin now.
            std::thread::sleep(Duration::from_micros(u64::from(i) * 500));
            drop(process);
            Instant::now()
        });
        let outcomes = loop {
            let outcomes = read_all(&reader, &handle, &mut landings, &expected).await;
            if outcomes.iter().any(Result::is_err) {
                break outcomes;
            }
        };
        let noticed = Instant::now();
        let late = noticed.saturating_duration_since(killer.join().unwrap());
        assert!(late < NOTICE_MAX, "{late:?}");
        for failure in outcomes.into_iter().filter_map(Result::err) {
            assert_eq!(failure.kind, ErrorKind::PeerLost, "{failure}");
            n_lost += 1;
        }
        let is_free = || landings.iter().all(Landing::is_poisoned);
        eventually("all memory is let go of", NOTICE_MAX, is_free).await;
    }
    println!("{n_lost} reads were lost with {N_KILLS} owners");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_killed_in_the_middle_disturbs_no_other() {
    let (reader, expected) = (start(), pattern(N_LENT));
    let (_healthy, other) = Process::owner();
    for _ in 0..N_KILLS / 4 {
        let (process, handle) = Process::owner();
        let (mut lost, mut kept) = (landings(), landings());
        let first = read_all(&reader, &handle, &mut lost, &expected).await;
        assert!(first.iter().all(Result::is_ok), "{first:?}");
        let killer = std::thread::spawn(move || drop(process));
        let both = futures::future::join(
            read_all(&reader, &handle, &mut lost, &expected),
            read_all(&reader, &other, &mut kept, &expected),
        );
        let (_, kept) = both.await;
        // What UCX's new beginning cut off may be refused once, but only once.
        for failure in kept.into_iter().filter_map(Result::err) {
            assert_eq!(failure.kind, ErrorKind::PeerLost, "{failure}");
        }
        killer.join().unwrap();
        let mut again = landings();
        let again = read_all(&reader, &other, &mut again, &expected).await;
        assert!(again.iter().all(Result::is_ok), "{again:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_killed_in_the_middle_keeps_no_lease() {
    let (owner, table) = (start(), Arc::new(LeaseTable::default()));
    for i in 0..N_KILLS {
        let kept = Arc::new(());
        let (handle, _served) = lend(&owner, &table, N_LENT, Arc::clone(&kept)).await;
        let process = Process::reader(&handle);
        tokio::time::sleep(Duration::from_micros(u64::from(i) * 500)).await;
        drop(process);
        table.release(handle.lease, handle.secret);
        let is_free = || Arc::strong_count(&kept) == 1;
        eventually("the lent memory is let go of", NOTICE_MAX, is_free).await;
    }
    assert_eq!(table.n_leases(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_stands_still_is_lost_and_may_be_met_again() {
    let (reader, expected) = (start(), pattern(N_LENT));
    let (process, handle) = Process::owner();
    let mut landings = landings();
    let first = read_all(&reader, &handle, &mut landings, &expected).await;
    assert!(first.iter().all(Result::is_ok), "{first:?}");
    process.signal(SIGSTOP);
    let begun = Instant::now();
    for outcome in read_all(&reader, &handle, &mut landings, &expected).await {
        assert_eq!(outcome.unwrap_err().kind, ErrorKind::PeerLost);
    }
    let waited = begun.elapsed();
    assert!((Duration::from_secs(4)..Duration::from_secs(10)).contains(&waited), "{waited:?}");
    let is_free = || landings.iter().all(Landing::is_poisoned);
    eventually("all memory is let go of", NOTICE_MAX, is_free).await;
    process.signal(SIGCONT);
    let mut others = self::landings();
    let again = read_all(&reader, &handle, &mut others, &expected).await;
    assert!(again.iter().all(Result::is_ok), "{again:?}");
    assert!(landings.iter().all(Landing::is_poisoned), "a byte came too late");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stands_still_keeps_no_lease_for_long() {
    let (owner, table) = (start(), Arc::new(LeaseTable::default()));
    let kept = Arc::new(());
    let (handle, _served) = lend(&owner, &table, N_LENT, Arc::clone(&kept)).await;
    let process = Process::reader(&handle);
    process.signal(SIGSTOP);
    table.release(handle.lease, handle.secret);
    let is_free = || Arc::strong_count(&kept) == 1;
    eventually("the lent memory is let go of", Duration::from_secs(15), is_free).await;
}
