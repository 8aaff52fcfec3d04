//! What must be alone in its process, because it measures or starves all of it.

use crate::child::{N_LENT, Process};
use crate::common::{destination, lend, start};
use crate::losses::SIGSTOP;
use planes::{Destination, LeaseTable, RemoteHandle, Source, Transport};
use std::ffi::{c_int, c_long};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use types::{ErrorKind, Result};

pub(crate) const IDLE: &str = "idle";
pub(crate) const DEAF: &str = "deaf";
pub(crate) const STARVED: &str = "starved";

/// Longest time until a transport has noticed what has changed around it.
const NOTICE_MAX: Duration = Duration::from_secs(10);

/// Longest time until a read is refused when there is no UCX.
const REFUSED_MAX: Duration = Duration::from_secs(1);

/// How long an idle thread is watched, how often at most, and what it may use of a processor
/// meanwhile.
const WATCHED: Duration = Duration::from_millis(300);
const N_WATCHED_MAX: usize = 10;
const USED_MAX: Duration = Duration::from_millis(30);

/// Reads, of which half are given up at some moment.
const N_READS: u64 = 4000;
const N_BYTES: usize = 64 << 10;

/// Processor time of this process, of which UCX's thread is the only one that may have work.
fn time_used() -> Duration {
    unsafe extern "C" {
        fn clock() -> c_long;
    }
    // SAFETY: it takes nothing and says a number, of microseconds on all systems of this kind.
    Duration::from_micros(unsafe { clock() } as u64)
}

/// What a while of idling used, or nothing if that was too much again and again.
/// What was under way may end within the first.
async fn time_idling() -> Option<Duration> {
    for _ in 0..N_WATCHED_MAX {
        let before = time_used();
        tokio::time::sleep(WATCHED).await;
        let used = time_used() - before;
        if used < USED_MAX {
            return Some(used);
        }
    }
    None
}

fn read(
    reader: &Arc<dyn Transport>,
    handle: &RemoteHandle,
    n_bytes: usize,
) -> impl Future<Output = Result<Destination>> + Unpin + use<> {
    let source = Source { region_idx: 0, offset: 0 };
    reader.read(handle.clone(), vec![source], destination(n_bytes))
}

/// How many descriptors this process may have from now on; gives how many it might have.
fn limit_descriptors(n_max: u64) -> u64 {
    const RLIMIT_NOFILE: c_int = 7;
    unsafe extern "C" {
        fn getrlimit(resource: c_int, limits: *mut [u64; 2]) -> c_int;
        fn setrlimit(resource: c_int, limits: *const [u64; 2]) -> c_int;
    }
    let mut limits = [0; 2];
    // SAFETY: C's structure of two numbers, the second of which only the system may raise.
    unsafe {
        assert_eq!(getrlimit(RLIMIT_NOFILE, &mut limits), 0);
        assert_eq!(setrlimit(RLIMIT_NOFILE, &[n_max, limits[1]]), 0);
    }
    limits[0]
}

/// Strangers knock while no descriptor is left for them.
pub(crate) async fn deaf() -> String {
    let (owner, reader) = (start(), start());
    let (transports, _served) = owner.serve(Arc::new(LeaseTable::default())).await.unwrap();
    let (peer, _) = transports[0]["ucx://".len()..].split_once('/').unwrap();
    let next_free = std::fs::File::open("/dev/null").unwrap().as_raw_fd() as u64;
    let n_max = limit_descriptors(next_free + 1);
    let _knocking = TcpStream::connect(peer).unwrap();
    let used = time_idling().await;
    limit_descriptors(n_max);
    tokio::time::timeout(NOTICE_MAX, reader.connect(&transports)).await.unwrap().unwrap();
    used.map_or("busy".into(), |used| format!("idle while nobody can be let in: {used:?}"))
}

/// A peer dies in the middle of a transfer, and there are no descriptors to open UCX anew with:
/// reads are refused at once and say so, until there are some again.
pub(crate) async fn starved() -> String {
    let reader = start();
    let (_healthy, other) = Process::owner();
    read(&reader, &other, N_LENT).await.map(drop).unwrap();
    let (victim, handle) = Process::owner();
    read(&reader, &handle, N_LENT).await.map(drop).unwrap();
    victim.signal(SIGSTOP);
    let mut lost = read(&reader, &handle, N_LENT);
    assert!(futures::poll!(&mut lost).is_pending());
    let n_max = limit_descriptors(3);
    drop(victim);
    lost.await.map(drop).unwrap_err();
    let is_refused = |outcome: &Result<()>| {
        outcome.as_ref().is_err_and(|failure| failure.kind == ErrorKind::Unavailable)
    };
    until_they_end(&reader, &other, is_refused).await;
    let asked = Instant::now();
    let failure = read(&reader, &other, N_LENT).await.map(drop).unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Unavailable, "{failure}");
    assert!(asked.elapsed() < REFUSED_MAX, "{:?}", asked.elapsed());
    limit_descriptors(n_max);
    until_they_end(&reader, &other, Result::is_ok).await;
    format!("there was no UCX for a while: {failure}")
}

/// Reads again and again until one ends like that.
async fn until_they_end(
    reader: &Arc<dyn Transport>,
    handle: &RemoteHandle,
    is_awaited: impl Fn(&Result<()>) -> bool,
) {
    let give_up = Instant::now() + NOTICE_MAX;
    loop {
        let outcome = read(reader, handle, N_LENT).await.map(drop);
        if is_awaited(&outcome) {
            return;
        }
        assert!(Instant::now() < give_up, "{outcome:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Many reads, of which half are given up while others end, and then none.
pub(crate) async fn idle() -> String {
    let (owner, reader, table) = (start(), start(), Arc::new(LeaseTable::default()));
    let (handle, _served) = lend(&owner, &table, N_BYTES, Arc::new(())).await;
    let read = || read(&reader, &handle, N_BYTES);
    for i in 0..N_READS / 2 {
        let (mut given_up, kept) = (read(), read());
        assert!(futures::poll!(&mut given_up).is_pending());
        let until = Instant::now() + Duration::from_micros(i % 200);
        while Instant::now() < until {}
        drop(given_up);
        kept.await.map(drop).unwrap();
    }
    match time_idling().await {
        Some(used) => format!("idle after {N_READS} reads: {used:?} in {WATCHED:?}"),
        None => "busy".into(),
    }
}

fn expect(role: &str, word: &str) {
    drop(start());
    let said = Process::alone(role);
    println!("{said}");
    assert!(said.starts_with(word), "{said}");
}

#[test]
fn a_transport_that_has_nothing_to_do_does_nothing() {
    expect(IDLE, "idle");
}

#[test]
fn a_transport_without_descriptors_waits_for_some() {
    expect(DEAF, "idle");
}

#[test]
fn ucx_that_cannot_be_opened_anew_is_said_and_tried_again() {
    expect(STARVED, "there was no UCX");
}
