//! The laws of transport: bytes arrive or are refused, and memory is let go of in the end.

use super::plot::Plot;
use super::{PATIENCE, TransportSubject};
use crate::transport::N_SOURCES_MAX;
use crate::{
    Address, Destination, LeaseTable, LeasedMemory, Region, RemoteHandle, Source, Withdraw,
};
use futures::future::{self, Either};
use std::sync::Arc;
use std::time::{Duration, Instant};
use types::{ErrorKind, Secret};

/// Two regions of 100 kB under a lease, and the handle to them.
struct Lent {
    table: Arc<LeaseTable>,
    handle: RemoteHandle,
    _served: Withdraw,
}

/// The owner's address for messages, which no transport uses.
pub(super) fn here() -> Address {
    Address("test.owner".into())
}

const N_LENT: usize = 100_000;

fn lent_byte(region_idx: usize, offset: usize) -> u8 {
    (offset * 31 + region_idx * 7 + offset / 257) as u8
}

async fn lend(subject: &TransportSubject) -> Lent {
    let bytes = (0..2).flat_map(|region| (0..N_LENT).map(move |i| lent_byte(region, i)));
    lend_plot(subject, &Plot::new(bytes.collect()), 2).await
}

/// Lends a plot, cut into regions of equal length.
async fn lend_plot(subject: &TransportSubject, plot: &Arc<Plot>, n_regions: usize) -> Lent {
    let table = Arc::new(LeaseTable::default());
    let (transports, served) = subject.owner.serve(Arc::clone(&table)).await.unwrap();
    let n_bytes = plot.bytes().len() / n_regions;
    let regions = (0..n_regions).map(|idx| plot.region(idx * n_bytes, n_bytes)).collect();
    let leased = LeasedMemory { regions, keep: plot.keep() };
    let (lease, secret) = table.grant(leased, Instant::now() + PATIENCE).unwrap();
    let handle = RemoteHandle { owner: here(), transports, lease, secret };
    Lent { table, handle, _served: served }
}

fn landing(n_bytes: usize) -> Destination {
    let mut memory = vec![0xAA_u8; n_bytes];
    // SAFETY: the vector is moved beside the region and never touched until it comes back.
    let region = unsafe { Region::new(memory.as_mut_ptr(), n_bytes) };
    Destination { regions: vec![region], keep: Box::new(memory) }
}

fn landed(destination: Destination) -> Vec<u8> {
    *destination.keep.downcast().expect("the vector that was handed over")
}

async fn read(
    subject: &TransportSubject,
    handle: RemoteHandle,
    source: Source,
    n_bytes: usize,
) -> types::Result<Vec<u8>> {
    let read = subject.reader.read(handle, vec![source], landing(n_bytes));
    subject.clock.within("a read", read).await.map(landed)
}

/// The bytes that arrive are those of the source, wherever it lies in the lease.
pub async fn a_read_brings_the_bytes(subject: TransportSubject) {
    let lent = lend(&subject).await;
    let places = [(0, 0, N_LENT), (1, 0, N_LENT), (1, 17, 1000), (0, N_LENT - 1, 1), (0, 5, 0)];
    for (region_idx, offset, n_bytes) in places {
        let source = Source { region_idx, offset };
        let bytes = read(&subject, lent.handle.clone(), source, n_bytes).await.unwrap();
        let expected: Vec<u8> =
            (offset..offset + n_bytes).map(|i| lent_byte(region_idx, i)).collect();
        assert!(bytes == expected, "{region_idx} {offset} {n_bytes}");
    }
}

async fn refused(subject: &TransportSubject, handle: RemoteHandle, source: Source) {
    let failure = read(subject, handle, source, 100).await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::NotFound, "{failure}");
}

const START: Source = Source { region_idx: 0, offset: 0 };

/// A guessed secret opens nothing.
pub async fn a_forged_handle_brings_nothing(subject: TransportSubject) {
    let lent = lend(&subject).await;
    let secret = Secret(lent.handle.secret.0.wrapping_add(1));
    refused(&subject, RemoteHandle { secret, ..lent.handle.clone() }, START).await;
}

/// A lease that has ended opens nothing.
pub async fn a_released_lease_brings_nothing(subject: TransportSubject) {
    let lent = lend(&subject).await;
    lent.table.release(lent.handle.lease, lent.handle.secret);
    refused(&subject, lent.handle.clone(), START).await;
}

/// A source that leaves the lease by one byte is refused.
pub async fn a_source_outside_brings_nothing(subject: TransportSubject) {
    let lent = lend(&subject).await;
    let outside = Source { region_idx: 0, offset: N_LENT - 99 };
    refused(&subject, lent.handle.clone(), outside).await;
    refused(&subject, lent.handle.clone(), Source { region_idx: 2, offset: 0 }).await;
}

/// A read that nobody waits for any more lets go of its destination when it has ended.
pub async fn a_dropped_read_keeps_its_destination(subject: TransportSubject) {
    let lent = lend(&subject).await;
    let kept = Arc::new(());
    let watched = Arc::downgrade(&kept);
    let Destination { regions, keep } = landing(1000);
    let destination = Destination { regions, keep: Box::new((keep, kept)) };
    drop(subject.reader.read(lent.handle.clone(), vec![START], destination));
    subject.clock.eventually("the destination is released", || watched.strong_count() == 0).await;
    lent.table.release(lent.handle.lease, lent.handle.secret);
    assert_eq!(lent.table.n_leases(), 0);
}

/// Long enough for a byte that should not come to come.
pub(super) async fn quiet(subject: &TransportSubject) {
    (subject.clock.sleep)(Duration::from_millis(20)).await;
}

/// Gives up `read` after some time, unless it has ended; then how it ended.
async fn cut_short<T>(
    subject: &TransportSubject,
    read: future::BoxFuture<'static, T>,
    after: Duration,
) -> Option<T> {
    match future::select(read, (subject.clock.sleep)(after)).await {
        Either::Left((outcome, _)) => Some(outcome),
        Either::Right(_) => None,
    }
}

/// Moments at which something happens to a read, in milliseconds after its begin.
const MOMENTS_MS: [u64; 12] = [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 6];

/// Sources from both regions, of several lengths (none too), land each in its own region, and
/// nothing lands between.
pub async fn several_sources_land_in_several_regions(subject: TransportSubject) {
    let lent = lend(&subject).await;
    let parts = [(1, 500, 40_000), (0, 0, 1), (1, 99, 0), (0, 70_000, 30_000), (1, 500, 7)];
    let n_landing = parts.iter().map(|(_, _, n_bytes)| n_bytes + 1).sum();
    let landing = Plot::new(vec![0xAA; n_landing]);
    let (mut regions, mut expected) = (Vec::new(), Vec::new());
    for (region_idx, offset, n_bytes) in parts {
        regions.push(landing.region(expected.len(), n_bytes));
        expected.extend((offset..offset + n_bytes).map(|i| lent_byte(region_idx, i)));
        expected.push(0xAA);
    }
    let sources = parts.map(|(region_idx, offset, _)| Source { region_idx, offset }).to_vec();
    let into = Destination { regions, keep: landing.keep() };
    let read = subject.reader.read(lent.handle.clone(), sources, into);
    let _kept = subject.clock.within("a read", read).await.unwrap();
    assert!(landing.bytes() == expected);
}

/// Bytes of the big read: more than any socket's or ring's buffers hold.
const N_BIG: usize = 20_000_000;

/// A read larger than all buffers on its way arrives whole.
pub async fn a_big_read_brings_every_byte(subject: TransportSubject) {
    let big = Plot::new((0..N_BIG).map(|i| lent_byte(0, i)).collect());
    let lent = lend_plot(&subject, &big, 1).await;
    let bytes = read(&subject, lent.handle.clone(), START, N_BIG).await.unwrap();
    assert!(bytes == big.bytes());
}

/// Many reads at once each bring their own bytes.
pub async fn a_hundred_reads_at_once(subject: TransportSubject) {
    let lent = lend(&subject).await;
    let reads = (0..100).map(|i| {
        let source = Source { region_idx: i % 2, offset: 500 * i };
        read(&subject, lent.handle.clone(), source, 10_000 + i)
    });
    for (i, bytes) in future::join_all(reads).await.into_iter().enumerate() {
        let expected = (500 * i..).take(10_000 + i).map(|at| lent_byte(i % 2, at));
        assert!(bytes.unwrap().into_iter().eq(expected), "read {i}");
    }
}

/// Bytes of a read that lasts longer than most of `MOMENTS_MS`.
const N_LONG: usize = 24 << 20;

/// The lease ends while its bytes are under way: they arrive right or are refused, and the owner's
/// memory is kept until the read has ended (poisoned bytes would be wrong ones), not longer.
pub async fn a_lease_released_under_a_read_gives_right_bytes_or_none(subject: TransportSubject) {
    let expected: Vec<u8> = (0..N_LONG).map(|i| lent_byte(0, i)).collect();
    for after_ms in MOMENTS_MS {
        let plot = Plot::new(expected.clone());
        let lent = lend_plot(&subject, &plot, 1).await;
        let reading = read(&subject, lent.handle.clone(), START, N_LONG);
        let releasing = async {
            (subject.clock.sleep)(Duration::from_millis(after_ms)).await;
            lent.table.release(lent.handle.lease, lent.handle.secret);
        };
        match future::join(reading, releasing).await.0 {
            Ok(bytes) => assert!(bytes == expected, "released after {after_ms} ms"),
            Err(failure) => assert_eq!(failure.kind, ErrorKind::NotFound, "{failure}"),
        }
        subject.clock.eventually("the owner's memory is let go of", || !plot.is_kept()).await;
        assert_eq!(lent.table.n_leases(), 0);
    }
}

/// A read given up at any moment lets go of its destination and writes nothing into it afterwards.
pub async fn a_read_dropped_at_any_moment_writes_no_more(subject: TransportSubject) {
    let lent = lend_plot(&subject, &Plot::new(vec![1; N_LONG]), 1).await;
    let mut landings = Vec::new();
    for after_ms in MOMENTS_MS {
        let landing = Plot::new(vec![0xAA; N_LONG]);
        let into = Destination { regions: vec![landing.region(0, N_LONG)], keep: landing.keep() };
        let read = subject.reader.read(lent.handle.clone(), vec![START], into);
        if let Some(outcome) = cut_short(&subject, read, Duration::from_millis(after_ms)).await {
            let _kept = outcome.unwrap();
            assert!(landing.bytes().iter().all(|&byte| byte == 1), "{after_ms} ms");
        }
        landings.push(landing);
    }
    let is_over = || !landings.iter().any(|landing| landing.is_kept());
    subject.clock.eventually("all destinations are let go of", is_over).await;
    quiet(&subject).await;
    assert!(landings.iter().all(|landing| landing.is_poisoned()), "a byte came too late");
    let bytes = read(&subject, lent.handle.clone(), START, N_LONG).await.unwrap();
    assert!(bytes.iter().all(|&byte| byte == 1), "others' reads go on");
}

/// A read with more or fewer sources than regions is refused, not guessed at.
pub async fn a_read_needs_one_region_for_each_source(subject: TransportSubject) {
    let lent = lend(&subject).await;
    for n_sources in [0, 2, 3] {
        let read = subject.reader.read(lent.handle.clone(), vec![START; n_sources], landing(8));
        let outcome = subject.clock.within("a refusal", read).await;
        assert!(outcome.is_err(), "{n_sources} sources into one region");
    }
}

/// A read of more sources than a request takes is refused.
pub async fn a_read_of_too_many_sources_is_refused(subject: TransportSubject) {
    let lent = lend(&subject).await;
    let n_sources = N_SOURCES_MAX + 1;
    let mut into = landing(8);
    into.regions = vec![into.regions[0]; n_sources];
    let read = subject.reader.read(lent.handle.clone(), vec![START; n_sources], into);
    let refusal = subject.clock.within("a refusal", read).await.err();
    assert_eq!(refusal.map(|failure| failure.kind), Some(ErrorKind::TooLarge));
}

/// No sources are read with success by whoever has the right, and by nobody else.
pub async fn a_read_of_nothing_succeeds(subject: TransportSubject) {
    let lent = lend(&subject).await;
    let nothing = || Destination { regions: Vec::new(), keep: Box::new(()) };
    let read = subject.reader.read(lent.handle.clone(), Vec::new(), nothing());
    assert!(subject.clock.within("a read", read).await.is_ok());
    lent.table.release(lent.handle.lease, lent.handle.secret);
    let read = subject.reader.read(lent.handle.clone(), Vec::new(), nothing());
    let refusal = subject.clock.within("a refusal", read).await.err();
    assert_eq!(refusal.map(|failure| failure.kind), Some(ErrorKind::NotFound));
}
