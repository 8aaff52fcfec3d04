//! The scheduler in a pretended world: seeded arrivals, media, cancellations, transfers and tiny
//! pools.
//!
//! The world computes what every KV slot really holds, so that wrong sharing, an early reuse of a
//! block or a row read before it was written shows as a difference from the truth. After each event
//! the invariants are checked. Whenever there is nothing to run, nobody may have all it needs; no
//! long run of steps may go without a token; and at the end everything that was not cancelled must
//! finish.
//!
//! `TRIPTYCH_SIM_SEEDS` sets the number of seeds, `TRIPTYCH_SIM_SEED` runs a single one.

mod device;
mod random;
mod tally;
mod truth;
mod world;

use std::panic::catch_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use tally::Tally;
use world::World;

const N_SEEDS: u64 = 1000;
const N_EVENTS: usize = 10_000;

#[test]
fn simulation() {
    simulate(1);
}

#[test]
fn simulation_of_steps_planned_while_another_runs() {
    simulate(2);
}

/// Worlds with so many steps under way at a time.
fn simulate(n_in_flight_max: usize) {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("TRIPTYCH_SIM_SEED") {
        return println!("{:#?}", World::new(seed, n_in_flight_max).run(N_EVENTS));
    }
    let n_seeds = number("TRIPTYCH_SIM_SEEDS").unwrap_or(N_SEEDS);
    let tally = Mutex::new(Tally::default());
    let (next_seed, n_failed) = (AtomicU64::new(0), AtomicU64::new(0));
    let n_threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..n_threads {
            scope.spawn(|| {
                while let seed = next_seed.fetch_add(1, Ordering::Relaxed)
                    && seed < n_seeds
                    && n_failed.load(Ordering::Relaxed) == 0
                {
                    match catch_unwind(|| World::new(seed, n_in_flight_max).run(N_EVENTS)) {
                        Ok(one) => tally.lock().expect("no holder panics").add(&one),
                        Err(_) => {
                            n_failed.fetch_add(1, Ordering::Relaxed);
                            eprintln!("seed {seed} failed; run TRIPTYCH_SIM_SEED={seed} alone");
                        }
                    }
                }
            });
        }
    });
    assert_eq!(n_failed.into_inner(), 0, "a seed failed, see above");
    let tally = tally.into_inner().expect("no holder panics");
    println!("{n_seeds} seeds of {N_EVENTS} events: {tally:#?}");
    tally.check(n_seeds, n_in_flight_max > 1);
}
