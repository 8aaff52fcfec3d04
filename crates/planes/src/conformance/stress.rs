//! Transfers of all kinds at once: sizes, cuts and moments are random, some are given up, some
//! lose their lease on the way, some have forged handles. Right bytes arrive or none, and nothing
//! is left over.

use super::plot::Plot;
use super::transport::{here, quiet};
use super::{PATIENCE, TransportSubject};
use crate::{Destination, LeaseTable, LeasedMemory, RemoteHandle, Source, random};
use futures::future::Either;
use futures::{StreamExt, future, stream};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use types::{ErrorKind, LeaseId, Result, Secret};

/// Transfers under way at a time.
const N_AT_ONCE: usize = 16;

/// Most bytes under one lease.
const N_BYTES_MAX: usize = 2 << 20;

/// What a region of the destination is filled with before, and what must stay between regions.
const BEFORE: u8 = 0xAA;

/// Bytes between two regions of a destination.
const N_GAP_BYTES: usize = 3;

/// Law: a thousand transfers of all kinds; see [`stress`].
pub async fn a_thousand_transfers_of_all_kinds(subject: TransportSubject) {
    stress(subject, 1000).await;
}

/// Runs `n_transfers`, and checks contents, ends, and that neither leases nor memory are left.
///
/// # Panics
/// When anything is wrong; the seed of the run is printed.
pub async fn stress(subject: TransportSubject, n_transfers: usize) {
    let seed = random::secret().0 as u64;
    println!("the seed of this run is {seed}");
    let table = Arc::new(LeaseTable::default());
    let (transports, _served) = subject.owner.serve(Arc::clone(&table)).await.unwrap();
    let mut dice = Dice(seed);
    let pattern = (0..2 * N_BYTES_MAX / 8).flat_map(|_| dice.roll().to_le_bytes()).collect();
    let run = Run { subject: &subject, table: &table, transports, pattern };
    let transfer = |i| run.transfer(Dice(seed ^ (i as u64) << 32));
    let plots: Vec<[Arc<Plot>; 2]> =
        stream::iter(0..n_transfers).map(transfer).buffer_unordered(N_AT_ONCE).collect().await;
    let is_over = || !plots.iter().flatten().any(|plot| plot.is_kept());
    subject.clock.eventually("all memory is let go of", is_over).await;
    quiet(&subject).await;
    assert!(plots.iter().flatten().all(|plot| plot.is_poisoned()), "a byte came too late");
    assert_eq!(table.n_leases(), 0);
}

/// A source of numbers that a seed repeats (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn up_to(&mut self, most: usize) -> usize {
        (self.roll() % (most as u64 + 1)) as usize
    }

    /// Mostly little, sometimes much.
    fn n_bytes(&mut self) -> usize {
        match self.up_to(99) {
            0..80 => self.up_to(8 << 10),
            80..98 => self.up_to(128 << 10),
            _ => self.up_to(N_BYTES_MAX),
        }
    }

    /// A moment within the first milliseconds of a read.
    fn moment(&mut self) -> Duration {
        Duration::from_millis(self.up_to(2) as u64)
    }
}

/// What happens to a transfer.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Finish,
    /// Nobody waits any longer after so much time.
    GiveUp(Duration),
    /// The lease ends after so much time.
    Release(Duration),
    Forge(Forgery),
}

/// What is wrong with a handle or a source.
#[derive(Debug, Clone, Copy)]
enum Forgery {
    Secret,
    Generation,
    Slot,
    Region,
    Offset,
}

impl Fate {
    fn roll(dice: &mut Dice) -> Self {
        match dice.up_to(9) {
            0..4 => Self::Finish,
            4..6 => Self::GiveUp(dice.moment()),
            6..8 => Self::Release(dice.moment()),
            _ => Self::Forge(match dice.up_to(4) {
                0 => Forgery::Secret,
                1 => Forgery::Generation,
                2 => Forgery::Slot,
                3 => Forgery::Region,
                _ => Forgery::Offset,
            }),
        }
    }
}

struct Run<'a> {
    subject: &'a TransportSubject,
    table: &'a Arc<LeaseTable>,
    transports: Vec<String>,
    /// Random bytes, of which every lease has a stretch.
    pattern: Vec<u8>,
}

/// One read: what is asked for, and what must come.
struct Order {
    sources: Vec<Source>,
    /// Where each source lies in the pattern.
    expected: Vec<Range<usize>>,
}

impl Run<'_> {
    /// Gives the memory of both sides back.
    async fn transfer(&self, mut dice: Dice) -> [Arc<Plot>; 2] {
        let fate = Fate::roll(&mut dice);
        let (n_bytes, start) = (dice.n_bytes(), dice.up_to(N_BYTES_MAX - 1));
        let lent = Plot::new(self.pattern[start..start + n_bytes].to_vec());
        let cuts = cut(n_bytes, &mut dice);
        let regions = cuts.iter().map(|cut| lent.region(cut.start, cut.len())).collect();
        let memory = LeasedMemory { regions, keep: lent.keep() };
        let (lease, secret) = self.table.grant(memory, Instant::now() + PATIENCE).unwrap();
        let mut order = Order::roll(&cuts, start, &mut dice);
        let (landing, into) = self.landing(&order);
        let owner = here();
        let mut from = RemoteHandle { owner, transports: self.transports.clone(), lease, secret };
        if let Fate::Forge(forgery) = fate {
            forgery.apply(&mut from, &mut order, &cuts, &mut dice);
        }
        let read = self.subject.reader.read(from, order.sources.clone(), into);
        let outcome = self.outcome(read, fate, (lease, secret)).await;
        self.check(fate, outcome, &order, &landing);
        self.table.release(lease, secret);
        [lent, landing]
    }

    fn landing(&self, order: &Order) -> (Arc<Plot>, Destination) {
        let n_bytes = order.expected.iter().map(|part| part.len() + N_GAP_BYTES).sum();
        let plot = Plot::new(vec![BEFORE; n_bytes]);
        let mut offset = 0;
        let regions = order.expected.iter().map(|part| {
            let region = plot.region(offset, part.len());
            offset += part.len() + N_GAP_BYTES;
            region
        });
        let into = Destination { regions: regions.collect(), keep: plot.keep() };
        (plot, into)
    }

    /// How the read ended; none when it was given up.
    async fn outcome(
        &self,
        mut read: future::BoxFuture<'static, Result<Destination>>,
        fate: Fate,
        (lease, secret): (LeaseId, Secret),
    ) -> Option<Result<Destination>> {
        let clock = self.subject.clock;
        if let Fate::GiveUp(after) | Fate::Release(after) = fate {
            match future::select(read, (clock.sleep)(after)).await {
                Either::Left((outcome, _)) => return Some(outcome),
                Either::Right((_, unfinished)) => read = unfinished,
            }
        }
        match fate {
            Fate::GiveUp(_) => return None,
            Fate::Release(_) => self.table.release(lease, secret),
            Fate::Finish | Fate::Forge(_) => {}
        }
        Some(clock.within("a read of many", read).await)
    }

    fn check(
        &self,
        fate: Fate,
        outcome: Option<Result<Destination>>,
        order: &Order,
        landing: &Plot,
    ) {
        match (fate, outcome) {
            (Fate::Finish | Fate::GiveUp(_) | Fate::Release(_), Some(Ok(_kept))) => {
                self.check_bytes(order, landing);
            }
            (Fate::Release(_) | Fate::Forge(_), Some(Err(failure))) => {
                assert_eq!(failure.kind, ErrorKind::NotFound, "{fate:?}: {failure}");
            }
            (Fate::GiveUp(_), None) => {}
            (fate, outcome) => {
                let outcome = outcome.map(|ended| ended.map(|_| "bytes"));
                panic!("{fate:?} ended with {outcome:?}");
            }
        }
    }

    fn check_bytes(&self, order: &Order, landing: &Plot) {
        let mut rest = landing.bytes();
        for part in &order.expected {
            let (bytes, after) = rest.split_at(part.len());
            assert!(bytes == &self.pattern[part.clone()], "wrong bytes for {part:?}");
            let (gap, after) = after.split_at(N_GAP_BYTES);
            assert_eq!(gap, [BEFORE; N_GAP_BYTES], "a byte beside the region");
            rest = after;
        }
    }
}

/// One to three stretches that together are `n_bytes`.
fn cut(n_bytes: usize, dice: &mut Dice) -> Vec<Range<usize>> {
    let mut at: Vec<usize> = (0..dice.up_to(2)).map(|_| dice.up_to(n_bytes)).collect();
    at.extend([0, n_bytes]);
    at.sort_unstable();
    at.windows(2).map(|pair| pair[0]..pair[1]).collect()
}

impl Order {
    /// Some sources within `cuts` of a lease that begins at `start` of the pattern.
    fn roll(cuts: &[Range<usize>], start: usize, dice: &mut Dice) -> Self {
        let (mut sources, mut expected) = (Vec::new(), Vec::new());
        for _ in 0..=dice.up_to(4) {
            let region_idx = dice.up_to(cuts.len() - 1);
            let cut = &cuts[region_idx];
            let offset = dice.up_to(cut.len());
            let n_bytes = dice.up_to(cut.len() - offset);
            let first = start + cut.start + offset;
            sources.push(Source { region_idx, offset });
            expected.push(first..first + n_bytes);
        }
        Self { sources, expected }
    }
}

impl Forgery {
    fn apply(
        self,
        from: &mut RemoteHandle,
        order: &mut Order,
        cuts: &[Range<usize>],
        dice: &mut Dice,
    ) {
        let idx = dice.up_to(order.sources.len() - 1);
        let source = &mut order.sources[idx];
        match self {
            Self::Secret => from.secret.0 ^= 1 << dice.up_to(127),
            Self::Generation => from.lease.generation ^= 1 << dice.up_to(31),
            Self::Slot => from.lease.slot ^= 1 << (20 + dice.up_to(11)),
            Self::Region => source.region_idx = [cuts.len(), usize::MAX][dice.up_to(1)],
            Self::Offset => {
                let one_too_far = cuts[source.region_idx].len() - order.expected[idx].len() + 1;
                source.offset = [one_too_far, usize::MAX][dice.up_to(1)];
            }
        }
    }
}
