//! etcd and NATS go away under load and come back, with and without what they knew: no process
//! ends, and service goes on or is soon back.

mod common;

use common::crowd::{Asker, Load, failures};
use common::fleet::{Fleet, Turn, sheet};
use common::process::{PATIENCE, becomes_true};
use common::questions::{long_questions, questions};
use common::servers::{Etcd, are_installed, free_port};
use std::thread::sleep;
use std::time::{Duration, Instant};

const N_CLIENTS: usize = 4;

/// How long etcd is away.
const ETCD_OUTAGE: Duration = Duration::from_secs(8);

/// Service is back so soon after NATS is.
const BACK_TIME: Duration = Duration::from_secs(3);

/// A request that the loss of NATS breaks off fails within this time.
const FAILURE_TIME: Duration = Duration::from_secs(5);

const RELEASE_TIME: Duration = Duration::from_secs(3);

#[test]
fn nobody_needs_etcd_while_it_is_away() {
    if !are_installed() {
        return;
    }
    let _turn = Turn::beside_others();
    let sheet = sheet(questions(10));
    let Some(mut fleet) = Fleet::start("auto", "epd", &[]) else { return };
    let load = Load::start(&fleet.url, &sheet, N_CLIENTS);
    load.expect_more(N_CLIENTS);
    fleet.cluster.etcd.process.kill();
    sleep(ETCD_OUTAGE);
    load.expect_more(N_CLIENTS);
    let began = Instant::now();
    fleet.cluster.etcd.restart();
    fleet.expect_all_registered();
    println!("etcd is back with what it knew: all registered after {:.2?}", began.elapsed());
    load.expect_more(N_CLIENTS);
    // And again, with all it knew lost.
    fleet.cluster.etcd.process.kill();
    let port = fleet.cluster.place.etcd_url.rsplit(':').next().unwrap().parse().unwrap();
    let began = Instant::now();
    fleet.cluster.etcd = Etcd::start_at([port, free_port()]).expect("nobody took its port");
    fleet.expect_all_registered();
    println!("etcd is back, empty: all registered after {:.2?}", began.elapsed());
    load.expect_more(N_CLIENTS);
    let asked = load.finish();
    let slowest = sheet.check(&asked);
    println!("{} answers, slowest {slowest:.2?}", asked.len());
    fleet.expect_all_alive();
    fleet.expect_idle(RELEASE_TIME);
    // Whoever comes now finds them.
    let late = fleet.cluster.role("frontend", &[]);
    late.expect_health();
    sheet.check(&[Asker::new(&late.url()).time(1, &sheet.questions[1])]);
}

#[test]
fn service_is_back_as_soon_as_nats_is() {
    if !are_installed() {
        return;
    }
    let _turn = Turn::beside_others();
    let sheet = sheet(long_questions(8, 200));
    let Some(mut fleet) = Fleet::start("auto", "epd", &[]) else { return };
    let load = Load::start(&fleet.url, &sheet, N_CLIENTS);
    load.expect_more(N_CLIENTS);
    for outage_ms in [0, 2500] {
        let lost = Instant::now();
        fleet.cluster.nats.process.kill();
        sleep(Duration::from_millis(outage_ms));
        fleet.cluster.nats.restart();
        let back = Instant::now();
        let asker = Asker::new(&fleet.url);
        let answers = || {
            let asked = asker.time(0, &sheet.questions[0]);
            assert!(asked.time < FAILURE_TIME, "{asked:?}");
            asked.result.is_ok()
        };
        assert!(becomes_true(PATIENCE, answers), "no answer comes any more");
        println!(
            "NATS away for {:.2?}: the first answer is whole {:.2?} after its return",
            back - lost,
            back.elapsed()
        );
        // An answer takes a while itself.
        assert!(back.elapsed() < BACK_TIME + Duration::from_secs(1), "{:?}", back.elapsed());
        load.expect_more(2 * N_CLIENTS);
    }
    let asked = load.finish();
    sheet.check_no_wrong_text(&asked);
    let failed = failures(&asked);
    for failed in &failed {
        assert!(failed.time < FAILURE_TIME, "{failed:?}");
    }
    println!("{} answered, {} broken off", asked.len() - failed.len(), failed.len());
    fleet.expect_all_alive();
    fleet.expect_idle(RELEASE_TIME);
}
