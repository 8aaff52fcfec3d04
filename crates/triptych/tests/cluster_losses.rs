//! Workers that die, stand still, or are cut off, while requests run: with another of their role no
//! request fails; without, requests fail soon and say why, and all is well again afterwards.

mod common;

use common::cluster::Meeting;
use common::crowd::{Asked, Asker, Load, Sheet, failures, slowest};
use common::fleet::{Fleet, Turn, Worker, sheet};
use common::process::{PATIENCE, becomes_true};
use common::proxy::Proxy;
use common::questions::{long_greeting, long_questions, questions, two_samples};
use common::servers::are_installed;
use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Clients under way.
const N_CLIENTS: usize = 6;

/// What a loss may add to the time of an answer: silence is noticed after 1.5 s, once for the
/// worker and once more for one that it waited for, and the work is done again.
const LOSS_TIME: Duration = Duration::from_secs(8);

/// A request that nobody can take over fails within this time.
const FAILURE_TIME: Duration = Duration::from_secs(5);

/// How long a worker stands still or is cut off.
const STILL_TIME: Duration = Duration::from_secs(3);

/// All that anybody holds is given back within this time.
const RELEASE_TIME: Duration = Duration::from_secs(3);

/// Short and long questions, about pictures and not.
fn mixed_sheet() -> Sheet {
    let mut all = questions(10);
    all.extend(long_questions(6, 150));
    all.extend(two_samples());
    sheet(all)
}

fn word(letter: char) -> &'static str {
    match letter {
        'e' => "encode",
        'p' | 'q' => "prefill",
        _ => "decode",
    }
}

/// Checks all answers and prints what the loss cost.
fn report(what: &str, sheet: &Sheet, asked: &[Asked]) {
    let slowest = sheet.check(asked);
    println!("{what}: {} answers, slowest {slowest:.2?}", asked.len());
    assert!(slowest < LOSS_TIME, "{slowest:?}");
}

#[test]
fn a_worker_that_dies_costs_no_answer_where_another_is() {
    if !are_installed() {
        return;
    }
    let _turn = Turn::beside_others();
    let sheet = mixed_sheet();
    let Some(mut fleet) = Fleet::start("auto", "eeppdd", &[]) else { return };
    let place = fleet.cluster.place.clone();
    for letter in ['e', 'p', 'd'] {
        let load = Load::start(&fleet.url, &sheet, N_CLIENTS);
        load.expect_more(N_CLIENTS);
        fleet.first(letter).role.kill();
        load.expect_more(2 * N_CLIENTS);
        fleet.first(letter).start_again(&place);
        load.expect_more(N_CLIENTS);
        report(&format!("{} killed", word(letter)), &sheet, &load.finish());
        fleet.expect_idle(RELEASE_TIME);
    }
    fleet.expect_all_registered();
}

#[test]
fn prefill_encodes_itself_when_the_only_encoder_dies() {
    if !are_installed() {
        return;
    }
    let _turn = Turn::beside_others();
    let sheet = mixed_sheet();
    let Some(mut fleet) = Fleet::start("auto", "eqd", &[]) else { return };
    let load = Load::start(&fleet.url, &sheet, N_CLIENTS);
    load.expect_more(N_CLIENTS);
    fleet.first('e').role.kill();
    load.expect_more(2 * N_CLIENTS);
    report("the only encoder killed, prefill has a tower", &sheet, &load.finish());
    fleet.workers.retain(|worker| worker.letter != 'e');
    fleet.expect_idle(RELEASE_TIME);
}

#[test]
fn the_last_of_a_role_that_dies_is_missed_by_name_until_it_is_back() {
    if !are_installed() {
        return;
    }
    let _turn = Turn::beside_others();
    let sheet = sheet(long_questions(6, 300));
    let Some(mut fleet) = Fleet::start("auto", "epd", &[]) else { return };
    let place = fleet.cluster.place.clone();
    for letter in ['e', 'p', 'd'] {
        let load = Load::start(&fleet.url, &sheet, N_CLIENTS);
        load.expect_more(1);
        let worker = fleet.first(letter);
        worker.role.kill();
        let killed = Instant::now();
        let missed = expect_missed_by_name(&fleet, &sheet, word(letter));
        let asked = load.finish();
        check_failures(&sheet, &asked, killed);
        fleet.frontend.expect_lack(&format!("no {} worker", word(letter)));
        let again = Instant::now();
        fleet.first(letter).start_again(&place);
        fleet.frontend.expect_health();
        let asker = Asker::new(&fleet.url);
        sheet.check(&[asker.time(0, &sheet.questions[0])]);
        println!(
            "the only {} killed: {} of {} requests failed, the slowest after {:.2?}; missed by \
             name after {missed:.2?}; back {:.2?} after the new one began",
            word(letter),
            failures(&asked).len(),
            asked.len(),
            slowest(&asked),
            again.elapsed(),
        );
        fleet.expect_idle(RELEASE_TIME);
    }
}

/// Asks until the answer is a 503 that names the role; all answers before are errors, and quick.
fn expect_missed_by_name(fleet: &Fleet, sheet: &Sheet, role: &str) -> Duration {
    let (began, asker) = (Instant::now(), Asker::new(&fleet.url));
    let wanted = format!("no {role} worker");
    let mut last = None;
    let named = becomes_true(PATIENCE, || {
        let asked = asker.time(0, &sheet.questions[0]);
        assert!(asked.time < FAILURE_TIME, "{asked:?}");
        let refusal = asked.result.expect_err("nobody can answer");
        let named = refusal.status == Some(503) && refusal.words.contains(&wanted);
        last = Some(refusal);
        named
    });
    assert!(named, "{wanted:?} was not said, but {last:?}");
    began.elapsed()
}

/// Those that failed did so soon after the loss or after they began.
fn check_failures(sheet: &Sheet, asked: &[Asked], lost_at: Instant) {
    sheet.check_no_wrong_text(asked);
    for failed in failures(asked) {
        let ended = failed.began + failed.time;
        let since = ended.saturating_duration_since(lost_at.max(failed.began));
        assert!(since < FAILURE_TIME, "it failed {since:?} after the loss: {failed:?}");
    }
}

#[test]
fn a_worker_that_stands_still_is_passed_over_and_comes_back_as_another() {
    if !are_installed() {
        return;
    }
    let _turn = Turn::beside_others();
    let sheet = mixed_sheet();
    let Some(mut fleet) = Fleet::start("auto", "eeppdd", &[]) else { return };
    for letter in ['e', 'p', 'd'] {
        let load = Load::start(&fleet.url, &sheet, N_CLIENTS);
        load.expect_more(N_CLIENTS);
        let before = ids(&fleet);
        let worker = fleet.first(letter);
        worker.role.pause();
        sleep(STILL_TIME);
        worker.role.resume();
        worker.role.process.expect_line("joins anew");
        expect_back(&mut fleet, letter, &before, &load);
        report(&format!("{} stood still", word(letter)), &sheet, &load.finish());
        fleet.expect_idle(RELEASE_TIME);
    }
}

#[test]
fn a_worker_that_is_cut_off_from_nats_is_passed_over_until_it_is_back() {
    if !are_installed() {
        return;
    }
    let _turn = Turn::beside_others();
    let sheet = mixed_sheet();
    let Some(mut fleet) = Fleet::start("auto", "eeppdd", &[]) else { return };
    for letter in ['e', 'p', 'd'] {
        let port = fleet.cluster.place.nats_url.rsplit(':').next().unwrap().parse().unwrap();
        let proxy = Proxy::start(port);
        let behind = Meeting {
            nats_url: format!("nats://127.0.0.1:{}", proxy.port()),
            ..fleet.cluster.place.clone()
        };
        fleet.first(letter).start_again(&behind);
        let load = Load::start(&fleet.url, &sheet, N_CLIENTS);
        load.expect_more(N_CLIENTS);
        expect_work(&fleet.first(letter).role, &load);
        proxy.cut();
        sleep(STILL_TIME);
        proxy.mend();
        expect_work(&fleet.first(letter).role, &load);
        report(&format!("{} cut off", word(letter)), &sheet, &load.finish());
        fleet.expect_idle(RELEASE_TIME);
        let place = fleet.cluster.place.clone();
        fleet.first(letter).start_again(&place);
    }
}

fn ids(fleet: &Fleet) -> BTreeSet<String> {
    let id = |instance: &serde_json::Value| instance["id"].as_str().unwrap().to_owned();
    fleet.instances().iter().map(id).collect()
}

/// Waits until the worker serves under a new id.
fn expect_back(fleet: &mut Fleet, letter: char, before: &BTreeSet<String>, load: &Load) {
    let n = fleet.workers.len();
    let is_new = || {
        let now = ids(fleet);
        now.len() == n && now.difference(before).count() == 1
    };
    assert!(becomes_true(PATIENCE, is_new), "{:?} are there, before {before:?}", ids(fleet));
    expect_work(&fleet.first(letter).role, load);
}

/// Waits until a worker is given work.
fn expect_work(role: &common::cluster::Role, load: &Load) {
    let began = load.n_answered();
    let steps = || {
        role.metric("triptych_steps_total", &[])
            + role.metric("triptych_encode_batch_items_count", &[])
    };
    let before = steps();
    let works = becomes_true(PATIENCE, || steps() > before);
    assert!(works, "no work for it, while {} were answered", load.n_answered() - began);
}

#[test]
fn the_only_worker_that_stands_still_fails_its_requests_soon() {
    if !are_installed() {
        return;
    }
    let _turn = Turn::beside_others();
    let Some(mut fleet) = Fleet::start("auto", "w", &[]) else { return };
    let worker: &Worker = &fleet.workers[0];
    let (asker, question) = (Asker::new(&fleet.url), long_greeting(1500));
    let asking = std::thread::spawn(move || asker.time(0, &question));
    let runs = || worker.role.metric("triptych_running_sequences", &[]) > 0.0;
    assert!(becomes_true(PATIENCE, runs), "the answer never began");
    worker.role.pause();
    let stopped = Instant::now();
    let asked = asking.join().unwrap();
    println!("the only worker stands still: {:?} after {:.2?}", asked.result, stopped.elapsed());
    assert!(asked.result.is_err());
    assert!(stopped.elapsed() < FAILURE_TIME);
    worker.role.resume();
    worker.role.process.expect_line("joins anew");
    fleet.expect_idle(RELEASE_TIME);
    let asker = Asker::new(&fleet.url);
    let [shapes, _] = two_samples();
    let is_back = || asker.ask(&shapes).is_ok_and(|answer| Some(answer.text) == shapes.expected);
    assert!(becomes_true(PATIENCE, is_back), "it is not back");
    // A model whose last worker is gone is missed, not unknown.
    fleet.first('w').role.kill();
    fleet.frontend.expect_lack("no worker has registered");
    let refusal = asker.ask(&shapes).unwrap_err();
    assert_eq!(refusal.status, Some(503), "{refusal:?}");
}
