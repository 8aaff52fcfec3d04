//! Two encode, three prefill and two decode workers under load: nothing is lost, nothing hangs,
//! nothing is left behind, and memory does not grow. `TRIPTYCH_TEST_STREAM_REQUESTS` says how many
//! requests follow the burst.

mod common;

use common::crowd::ask_all;
use common::fleet::{Fleet, Turn, sheet, size, slope};
use common::questions::questions;
use common::servers::are_installed;
use std::time::{Duration, Instant};

/// Different questions.
const N_QUESTIONS: usize = 50;

/// Requests that come in the same moment.
const N_BURST: usize = 200;

/// Clients of the stream behind it.
const N_CLIENTS: usize = 12;

/// The slowest of so many on two busy cores.
const SLOWEST: Duration = Duration::from_secs(45);

/// All that anybody holds is given back within this time.
const RELEASE_TIME: Duration = Duration::from_secs(2);

/// Memory is looked at so many times.
const N_LOOKS: usize = 10;

/// A process may grow by this much after its warm-up: allocators keep what they had once.
const GROWTH_KIB_MAX: u64 = 16 << 10;

#[test]
fn nothing_is_lost_and_nothing_is_left_behind() {
    if !are_installed() {
        return;
    }
    let _turn = Turn::alone();
    let sheet = sheet(questions(N_QUESTIONS));
    let Some(fleet) = Fleet::start("auto", "eepppdd", &[]) else { return };
    let began = Instant::now();
    let asked = ask_all(&fleet.url, &sheet.questions, N_BURST, N_BURST);
    let slowest = sheet.check(&asked);
    println!("{N_BURST} at once in {:.1?}, slowest {slowest:.2?}", began.elapsed());
    assert!(slowest < SLOWEST, "{slowest:?}");
    let idle = fleet.expect_idle(RELEASE_TIME);
    println!("all given back after {idle:.2?}");

    let n = size("TRIPTYCH_TEST_STREAM_REQUESTS", 300);
    let mut looks = Vec::new();
    let began = Instant::now();
    for look in 1..=N_LOOKS {
        let n_part = n * look / N_LOOKS - n * (look - 1) / N_LOOKS;
        let asked = ask_all(&fleet.url, &sheet.questions, n_part, N_CLIENTS);
        let slowest = sheet.check(&asked);
        assert!(slowest < SLOWEST, "{slowest:?}");
        looks.push(fleet.resident_kib());
    }
    let time = began.elapsed();
    println!("{n} more in {time:.1?}, {:.1}/s", n as f64 / time.as_secs_f64());
    fleet.expect_idle(RELEASE_TIME);
    for (idx, (name, last)) in looks[N_LOOKS - 1].iter().enumerate() {
        let mib = |kib: u64| kib as f64 / 1024.0;
        let resident: Vec<u64> = looks.iter().map(|look| look[idx].1).collect();
        // The first half is warm-up.
        let slope = slope(&resident[N_LOOKS / 2..]) / (n as f64 / N_LOOKS as f64) * 1000.0;
        println!("{name}: {:.1} MiB, growing by {slope:.0} KiB in 1,000 requests", mib(*last));
        let growth = last.saturating_sub(resident[N_LOOKS / 2]);
        assert!(growth < GROWTH_KIB_MAX, "{name} grows: {resident:?} KiB");
    }
}
