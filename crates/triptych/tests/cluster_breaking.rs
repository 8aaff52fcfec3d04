//! Workers whose devices are lost: they leave, others answer for them, and their processes end and
//! say why.

mod common;

use common::cluster::{Cluster, Role, post_chat};
use common::crowd::{Asker, Load, Sheet};
use common::fleet::{Fleet, Turn, Worker, one_process};
use common::process::Signal;
use common::questions::{long_greeting, questions};
use common::servers::are_installed;
use serde_json::json;
use std::time::Duration;

/// A pretended model, for a device that can be lost.
const MOCK: [&str; 4] = ["--engine", "mock", "--mock-step-us", "1000"];

/// Clients under way.
const N_CLIENTS: usize = 6;

/// All that anybody holds is given back within this time.
const RELEASE_TIME: Duration = Duration::from_secs(3);

/// Flags of a worker whose device is lost after so many steps.
fn lost_after(n_steps: &'static str) -> [&'static str; 6] {
    let [engine, mock, step, time] = MOCK;
    [engine, mock, step, time, "--mock-fail-after-steps", n_steps]
}

/// It ends by itself, with a failure and the words that say why.
fn expect_breakdown(role: &mut Role, name: &str) {
    let status = role.process.expect_end();
    assert_eq!(status.code(), Some(1), "{status}:\n{}", role.process.log());
    role.process.expect_line(&format!("{name}: the engine has broken down: its device is lost: "));
}

#[test]
fn a_worker_that_breaks_down_costs_no_answer_where_another_is() {
    if !are_installed() {
        return;
    }
    let _turn = Turn::beside_others();
    let sheet = Sheet::fill(&one_process("agg", &MOCK).system_url, questions(20));
    let Some(fleet) = Fleet::start("auto", "epd", &MOCK) else { return };
    let names = [('e', "encode-worker"), ('p', "prefill-worker"), ('d', "decode-worker")];
    for (letter, name) in names {
        let mut breaking = Worker::start(&fleet.cluster.place, letter, &lost_after("20"));
        breaking.role.expect_health();
        let load = Load::start(&fleet.url, &sheet, N_CLIENTS);
        expect_breakdown(&mut breaking.role, name);
        load.expect_more(2 * N_CLIENTS);
        let asked = load.finish();
        let slowest = sheet.check(&asked);
        println!("{name} broken: {} answers, slowest {slowest:.2?}", asked.len());
        fleet.expect_idle(RELEASE_TIME);
        fleet.expect_all_registered();
    }
}

/// etcd stands still, so the worker stays a moment longer: it hopes to see itself gone.
#[test]
fn a_worker_that_has_broken_down_says_so_at_its_system_port() {
    let Some(cluster) = Cluster::start("tcp") else { return };
    let mut worker = cluster.role("worker", &lost_after("5"));
    worker.expect_health();
    let frontend = cluster.role("frontend", &[]);
    frontend.expect_health();
    cluster.etcd.process.signal(Signal::Stop);
    let hello = json!({"model": "shapes", "max_tokens": 50, "ignore_eos": true,
                       "messages": [{"role": "user", "content": "Hello!"}]});
    let (status, body) = post_chat(&frontend.url(), &hello);
    assert_eq!(status, 503, "{body}");
    worker.expect_lack("the engine has broken down: its device is lost");
    assert_eq!(worker.metric("triptych_failed_steps_total", &[]), 1.0);
    expect_breakdown(&mut worker, "worker");
}

#[test]
fn one_process_ends_when_an_engine_of_it_breaks_down() {
    for roles in ["agg", "e,p,d"] {
        let mut role = one_process(roles, &lost_after("5"));
        let refusal = Asker::new(&role.system_url).ask(&long_greeting(50)).expect_err("it breaks");
        println!("{roles}: {refusal:?}");
        expect_breakdown(&mut role, "triptych");
    }
}
