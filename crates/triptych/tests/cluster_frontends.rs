//! Frontends that die or stand still while their requests run: workers let go of all they did for
//! them, and another frontend answers.

mod common;

use common::cluster::Role;
use common::crowd::{Asker, Load, Sheet, failures};
use common::fleet::{Fleet, Turn, sheet};
use common::process::{PATIENCE, becomes_true};
use common::questions::{long_greeting, long_questions, two_samples};
use common::servers::are_installed;
use std::time::{Duration, Instant};

/// Clients of each frontend.
const N_CLIENTS: usize = 6;

/// What workers hold for a frontend that is gone is given back within this time: silence is noticed
/// after 1.5 s.
const RELEASE_TIME: Duration = Duration::from_secs(3);

/// What somebody else's loss may add to an answer, on a busy machine.
const SLOWEST: Duration = Duration::from_secs(20);

/// Answers that last longer than anybody here waits, and how many are wanted at a time.
const N_LONG_TOKENS: u32 = 1900;
const N_LONG_CLIENTS: usize = 3;

/// Long answers from a frontend, which nobody looks at.
fn ask_for_long_answers(frontend: &Role) -> Load {
    let sheet = Sheet::of(vec![long_greeting(N_LONG_TOKENS)], Vec::new());
    Load::start(&frontend.url(), &sheet, N_LONG_CLIENTS)
}

/// Requests that decode was told to drop, or dropped because its caller was gone.
fn n_cancelled(fleet: &Fleet) -> f64 {
    fleet.look_at('d').role.metric("triptych_cancellations_total", &[])
}

/// Waits until every stage is at work.
fn expect_work_everywhere(fleet: &Fleet) {
    let is_called = |letter| fleet.look_at(letter).role.metric("triptych_calls", &[]) > 0.0;
    let work = || ['e', 'p', 'd'].into_iter().all(is_called);
    assert!(becomes_true(PATIENCE, work), "they are never all at work: {:?}", fleet.holdings());
}

#[test]
fn a_frontend_that_dies_or_stands_still_leaves_nothing_behind() {
    if !are_installed() {
        return;
    }
    let _turn = Turn::beside_others();
    // Pictures that are lent, because they are large, are among them.
    let sheet = sheet(long_questions(8, 40).into_iter().chain(two_samples()).collect());
    let Some(fleet) = Fleet::start("auto", "epd", &[]) else { return };
    dies(&fleet, &sheet);
    stands_still(&fleet, &sheet);
}

fn dies(fleet: &Fleet, sheet: &Sheet) {
    let mut other = fleet.cluster.role("frontend", &[]);
    other.expect_health();
    let load = Load::start(&other.url(), sheet, N_CLIENTS);
    let long = ask_for_long_answers(&other);
    load.expect_more(1);
    expect_work_everywhere(fleet);
    let n_cancelled_before = n_cancelled(fleet);
    other.kill();
    let n_held = fleet.holdings().len();
    assert!(n_held > 0, "nothing was held for the one that died");
    sheet.check_no_wrong_text(&load.finish());
    assert!(failures(&long.finish()).len() >= N_LONG_CLIENTS, "they were to be broken off");
    let idle = fleet.expect_idle(RELEASE_TIME);
    println!("a frontend killed: {n_held} things held for it, given back after {idle:.2?}");
    assert!(n_cancelled(fleet) > n_cancelled_before, "long answers were to be broken off");
    let asker = Asker::new(&fleet.url);
    for question in two_samples() {
        let answer = asker.ask(&question).map(|answer| answer.text);
        assert_eq!(answer.ok(), question.expected);
    }
}

fn stands_still(fleet: &Fleet, sheet: &Sheet) {
    let mut other = fleet.cluster.role("frontend", &[]);
    other.expect_health();
    let long = ask_for_long_answers(&other);
    let [ours, theirs] = [&fleet.url, &other.url()].map(|url| Load::start(url, sheet, N_CLIENTS));
    for load in [&ours, &theirs] {
        load.expect_more(1);
    }
    expect_work_everywhere(fleet);
    let n_cancelled_before = n_cancelled(fleet);
    other.pause();
    let paused = Instant::now();
    ours.expect_more(2 * N_CLIENTS);
    let asked = ours.finish();
    let slowest = sheet.check(&asked);
    assert!(slowest < SLOWEST, "{slowest:?}");
    // It still stands, so nothing of this is its own doing.
    let idle = fleet.expect_idle(RELEASE_TIME);
    println!(
        "a frontend stood still: {} answers of another, slowest {slowest:.2?}; all given back \
         after {idle:.2?}",
        asked.len()
    );
    assert!(n_cancelled(fleet) > n_cancelled_before, "long answers were to be broken off");
    println!("it stood for {:.2?}", paused.elapsed());
    other.resume();
    theirs.expect_more(N_CLIENTS);
    sheet.check_no_wrong_text(&theirs.finish());
    other.kill();
    long.finish();
    fleet.expect_idle(RELEASE_TIME);
}
