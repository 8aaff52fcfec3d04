//! How fast a transport reads between two processes of one machine, beside a tool of the trade.
//!
//! Ours and theirs take turns, several times, so that whatever else the machine does meets both
//! alike; a figure is the median of its turns. The program that measures is also the owner of the
//! memory: it starts itself again with the word `lend`.
//!
//! Must not know which transport it measures. Nothing here passes or fails by a figure; bytes that
//! are wrong end the program.

use crate::{
    Address, Destination, LeaseTable, LeasedMemory, Region, RemoteHandle, Source, Transport,
};
use futures::StreamExt;
use futures::executor::block_on;
use futures::stream::FuturesUnordered;
use memmap2::MmapMut;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use types::{LeaseId, Secret};

/// Bytes of all reads under way at a time, where there are several. What moves to ever the same
/// place stays in the processor's caches, and tools of the trade have a single place: with much
/// more under way the figures would compare caches.
const IN_FLIGHT_BYTES: usize = 2 << 20;

/// Reads under way at a time, where there are several.
const N_IN_FLIGHT: std::ops::RangeInclusive<usize> = 2..=8;

/// Bytes of a read, unless the command line says otherwise.
const SIZES: [usize; 5] = [256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20];

/// Turns of each side for each figure.
const N_TURNS: usize = 5;

/// How long a turn of ours takes.
const TURN: Duration = Duration::from_millis(200);

/// The word that makes the program the owner.
const LEND: &str = "lend";

/// How long the owner lends, at most.
const LENT_MAX: Duration = Duration::from_secs(3600);

/// The tool of the trade.
pub struct Rival<'a> {
    /// Its name.
    pub name: &'a str,
    /// GB/s that it moves in messages of so many bytes, so many of them at a time; none where it
    /// is not installed.
    pub rate: &'a dyn Fn(usize, usize) -> Option<f64>,
}

/// What the turns of one figure gave, in GB/s.
#[derive(Default)]
struct Turns {
    ours: Vec<f64>,
    theirs: Vec<f64>,
}

/// The program: prints a table, a line for each of the sizes on the command line.
///
/// # Panics
/// When wrong bytes arrive, or the other process cannot be had.
pub fn main(start: fn() -> Arc<dyn Transport>, rival: &Rival<'_>) {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let sizes: Vec<usize> = arguments.iter().filter_map(|word| word.parse().ok()).collect();
    let sizes = if sizes.is_empty() { &SIZES[..] } else { &sizes };
    let n_lent = sizes.iter().copied().max().unwrap_or(0);
    if arguments.iter().any(|word| word == LEND) {
        block_on(lend(start(), n_lent));
    } else {
        block_on(measure(start, rival, sizes, n_lent));
    }
}

// ---------------------------------------------------------------------------------- the owner

fn byte(idx: usize) -> u8 {
    (idx * 31 + idx / 257) as u8
}

/// Memory as KV pools have it: whole pages, huge ones where the system has them.
fn room(n_bytes: usize) -> MmapMut {
    let map = MmapMut::map_anon(n_bytes).unwrap();
    // Only a hint.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    map
}

/// Lends until nobody holds the other end of the standard input.
async fn lend(transport: Arc<dyn Transport>, n_bytes: usize) {
    let mut room = room(n_bytes);
    room.iter_mut().enumerate().for_each(|(idx, place)| *place = byte(idx));
    // SAFETY: the lease keeps the map, and nobody writes to it any more.
    let region = unsafe { Region::new(room.as_mut_ptr(), n_bytes) };
    let table = Arc::new(LeaseTable::default());
    let memory = LeasedMemory { regions: vec![region], keep: Box::new(room) };
    let (addresses, _served) = transport.serve(Arc::clone(&table)).await.unwrap();
    let (lease, secret) = table.grant(memory, Instant::now() + LENT_MAX).unwrap();
    println!("{} {} {} {}", addresses[0], lease.slot, lease.generation, secret.0);
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// Starts the owner's process, and says what it lends.
fn start_owner(n_bytes: usize) -> (Child, RemoteHandle) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([LEND.into(), n_bytes.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [address, slot, generation, secret] = fields[..] else { panic!("said {line}") };
    let lease = LeaseId { slot: slot.parse().unwrap(), generation: generation.parse().unwrap() };
    let handle = RemoteHandle {
        owner: Address("none".into()),
        transports: vec![address.into()],
        lease,
        secret: Secret(secret.parse().unwrap()),
    };
    (child, handle)
}

// --------------------------------------------------------------------------------- the reader

async fn measure(
    start: fn() -> Arc<dyn Transport>,
    rival: &Rival<'_>,
    sizes: &[usize],
    n_lent: usize,
) {
    let (mut owner, handle) = start_owner(n_lent);
    let (reader, name) = (start(), rival.name);
    println!("medians of {N_TURNS} turns each; GB/s; a share is the median of the turns' shares");
    println!(
        "| bytes | alone, µs | alone | {name}, 1 at a time | share | in flight | together \
         | {name}, as many at a time | share |"
    );
    println!("|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    for &n_bytes in sizes {
        let (mut alone, mut together) = (Turns::default(), Turns::default());
        let n_in_flight =
            (IN_FLIGHT_BYTES / n_bytes).clamp(*N_IN_FLIGHT.start(), *N_IN_FLIGHT.end());
        for _ in 0..N_TURNS {
            for (turns, n_at_a_time) in [(&mut alone, 1), (&mut together, n_in_flight)] {
                turns.ours.push(rate(&*reader, &handle, n_bytes, n_at_a_time).await);
                turns.theirs.extend((rival.rate)(n_bytes, n_at_a_time));
            }
        }
        let alone_us = n_bytes as f64 / median(&alone.ours) / 1e3;
        let (alone, together) = (alone.words(), together.words());
        println!("| {n_bytes} | {alone_us:.1} | {alone} | {n_in_flight} | {together} |");
    }
    drop(owner.stdin.take());
    owner.wait().unwrap();
}

impl Turns {
    /// Ours, theirs and the share, as cells of the table.
    fn words(&self) -> String {
        let ours = median(&self.ours);
        if self.theirs.len() < self.ours.len() {
            return format!("{ours:.2} | not installed | –");
        }
        let shares: Vec<f64> = self.ours.iter().zip(&self.theirs).map(|(a, b)| a / b).collect();
        let (theirs, share) = (median(&self.theirs), 100.0 * median(&shares));
        format!("{ours:.2} | {theirs:.2} | {share:.0} %")
    }
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// GB/s with so many reads of the first bytes under way, each into a place of its own
/// in one pool.
async fn rate(
    reader: &dyn Transport,
    from: &RemoteHandle,
    n_bytes: usize,
    n_at_a_time: usize,
) -> f64 {
    let read = |into| reader.read(from.clone(), vec![Source { region_idx: 0, offset: 0 }], into);
    let mut pool = room(n_at_a_time * n_bytes);
    let start = pool.as_mut_ptr();
    let pool = Arc::new(pool);
    let destination = |idx| {
        // SAFETY: a part of the pool that no other read has; the read keeps the pool.
        let region = unsafe { Region::new(start.wrapping_add(idx * n_bytes), n_bytes) };
        Destination { regions: vec![region], keep: Box::new(Arc::clone(&pool)) }
    };
    let mut reads: FuturesUnordered<_> =
        (0..n_at_a_time).map(|idx| read(destination(idx))).collect();
    // The first ones touch their memory for the first time.
    for _ in 0..2 * n_at_a_time {
        let landed = reads.next().await.unwrap().unwrap();
        reads.push(read(landed));
    }
    let (begun, mut n_reads) = (Instant::now(), 0);
    while begun.elapsed() < TURN {
        let landed = reads.next().await.unwrap().unwrap();
        reads.push(read(landed));
        n_reads += 1;
    }
    let seconds = begun.elapsed().as_secs_f64();
    while let Some(landed) = reads.next().await {
        look_at(&landed.unwrap());
    }
    (n_reads * n_bytes) as f64 / seconds / 1e9
}

fn look_at(landed: &Destination) {
    let region = landed.regions[0];
    // SAFETY: the destination was given back and still keeps its memory, to which nobody writes.
    let bytes = unsafe { std::slice::from_raw_parts(region.ptr(), region.n_bytes()) };
    assert!(bytes.iter().enumerate().all(|(idx, found)| *found == byte(idx)), "wrong bytes");
}
