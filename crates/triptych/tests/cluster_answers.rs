//! Every topology of separate processes, over every transport, gives the answers of one process,
//! token for token. `TRIPTYCH_TEST_REQUESTS` says how many questions.

mod common;

use common::crowd::ask_all;
use common::fleet::{Fleet, Turn, sheet, size};
use common::questions::{questions, two_samples};
use common::servers::are_installed;
use std::time::{Duration, Instant};

/// Questions under way at a time.
const N_AT_ONCE: usize = 8;

/// All that a topology holds is given back within this time.
const RELEASE_TIME: Duration = Duration::from_secs(2);

/// Aggregated; P+D; E+P+D; two encode, three prefill and two decode workers.
const TOPOLOGIES: [&str; 4] = ["w", "qd", "epd", "eepppdd"];

#[test]
fn every_topology_answers_as_one_process_does() {
    if !are_installed() {
        return;
    }
    let _turn = Turn::alone();
    let n = size("TRIPTYCH_TEST_REQUESTS", 60);
    let all = questions(n).into_iter().chain(two_samples()).collect();
    let began = Instant::now();
    let sheet = sheet(all);
    let (n_right, n_known) = sheet.n_right();
    println!("one process: {n} questions in {:.1?}, {n_right} of {n_known} right", began.elapsed());
    // The model errs once in a while, and then in the same way everywhere.
    assert!(n_right * 100 >= n_known * 97, "{n_right} of {n_known} right");
    let transports: &[_] = if transport_ucx::check().is_ok() { &["ucx", "tcp"] } else { &["tcp"] };
    for transport in transports {
        for letters in TOPOLOGIES {
            let Some(fleet) = Fleet::start(transport, letters, &[]) else { return };
            let began = Instant::now();
            let asked = ask_all(&fleet.url, &sheet.questions, sheet.questions.len(), N_AT_ONCE);
            let time = began.elapsed();
            let slowest = sheet.check(&asked);
            let samples = asked.iter().filter(|asked| asked.idx >= n);
            let samples: Vec<_> =
                samples.map(|asked| &asked.result.as_ref().unwrap().text).collect();
            assert_ne!(samples[0], samples[1]);
            let idle = fleet.expect_idle(RELEASE_TIME);
            println!(
                "{transport} {letters}: {n} equal in {time:.1?}, slowest {slowest:.2?}, all given \
                 back after {idle:.2?}"
            );
        }
    }
}
