//! Those who leave: clients, from every stage, `TRIPTYCH_TEST_LEAVINGS` times; and a worker that is
//! asked to, under load.

mod common;

use common::cluster::Role;
use common::crowd::Load;
use common::fleet::{Fleet, Turn, Worker, sheet, size};
use common::process::{PATIENCE, Signal, becomes_true};
use common::questions::{Question, about_sample, long_greeting, long_prompt, long_questions};
use common::servers::are_installed;
use serde_json::json;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// All that a request held must be back after this.
const WITHIN: Duration = Duration::from_secs(1);

/// A pretended model that is slow enough to be met in each stage: a picture takes about half a
/// second to encode and again to prefill, a token 20 ms.
const SLOW: [&str; 8] = [
    "--engine",
    "mock",
    "--mock-step-us",
    "20000",
    "--mock-prompt-token-ns",
    "2000000",
    "--mock-patch-ns",
    "500000",
];

/// Where a request is when its client leaves.
struct Moment {
    name: &'static str,
    /// The worker that is at work then, and what it counts more of than before the request.
    worker: char,
    sign: &'static str,
    /// Events that the client reads before.
    n_events: usize,
}

const MOMENTS: [Moment; 4] = [
    Moment { name: "while encoding", worker: 'e', sign: "triptych_embedding_bytes", n_events: 0 },
    // It has the rows, and begins to compute.
    Moment {
        name: "in prefill",
        worker: 'p',
        sign: "triptych_embedding_moved_bytes_total",
        n_events: 0,
    },
    Moment { name: "after a token", worker: 'd', sign: "triptych_calls", n_events: 1 },
    Moment { name: "in decode", worker: 'd', sign: "triptych_running_sequences", n_events: 10 },
];

/// One prompt at a time in prefill, and room for one long prompt at decode; steps stay short.
const NARROW: [&str; 2] = [
    "--override-engine-args",
    r#"{"max_batch_size": 1, "max_num_tokens": 64, "kv_cache_config": {"max_tokens": 2048}}"#,
];

/// A prompt that takes more than half of that room.
const N_LONG_PROMPT_TOKENS: usize = 1200;

/// Sends a question and gives the connection.
fn begin(url: &str, question: &Question) -> TcpStream {
    let mut socket = TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let body = question.body.to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes()).unwrap();
    socket.write_all(body.as_bytes()).unwrap();
    socket
}

/// Reads until so many pieces of the answer have come.
fn read_pieces(socket: &TcpStream, n: usize) {
    let lines = BufReader::new(socket).lines().map_while(Result::ok);
    let pieces = lines.filter(|line| line.contains("\"content\":\""));
    assert_eq!(pieces.take(n).count(), n, "the answer ended");
}

#[test]
fn a_client_that_leaves_takes_its_work_along() {
    let _turn = Turn::alone();
    let Some(fleet) = Fleet::start("auto", "epd", &SLOW) else { return };
    let n_rounds = size("TRIPTYCH_TEST_LEAVINGS", 1);
    let rounds = (0..n_rounds).flat_map(|round| MOMENTS.iter().map(move |moment| (round, moment)));
    for (round, moment) in rounds {
        let mut question = about_sample("What is in the picture?", "four-shapes.jpg", "");
        question.body["max_tokens"] = json!(1000);
        question.body["ignore_eos"] = json!(true);
        // Nothing of the attempt before is in a cache.
        question.body["cache_salt"] = json!(format!("{round}, {}", moment.name));
        let worker = &fleet.look_at(moment.worker).role;
        let sign = || worker.metric(moment.sign, &[]);
        let before = sign();
        let socket = begin(&fleet.url, &question);
        read_pieces(&socket, moment.n_events);
        assert!(becomes_true(PATIENCE, || sign() > before), "{} was not seen", moment.name);
        drop(socket);
        let took = fleet.expect_idle(WITHIN);
        println!("{}: all given back after {took:.2?}", moment.name);
    }
    // While an encoder works, prefill has been called as well; after the first token, decode may
    // not have been called yet.
    let count = |worker: &Worker| worker.role.metric("triptych_cancellations_total", &[]);
    let counts = ['p', 'd'].map(|letter| count(fleet.look_at(letter)));
    println!("cancellations of prefill and decode: {counts:?}");
    assert!(counts.iter().all(|&count| count >= n_rounds as f64), "{counts:?}");
}

#[test]
fn a_client_that_leaves_while_it_waits_takes_its_place_along() {
    let _turn = Turn::alone();
    let flags = [&SLOW[..], &NARROW].concat();
    let Some(fleet) = Fleet::start("auto", "qd", &flags) else { return };
    let [prefill, decode] = ['q', 'd'].map(|letter| &fleet.look_at(letter).role);
    let is = |role: &Role, name: &str, value: f64| {
        let is_so = || role.metric(name, &[]) == value;
        assert!(becomes_true(PATIENCE, is_so), "{name} never is {value}: {:?}", fleet.holdings());
    };

    let at_work = begin(&fleet.url, &long_prompt(N_LONG_PROMPT_TOKENS, 400));
    is(prefill, "triptych_running_sequences", 1.0);
    let waits = begin(&fleet.url, &long_greeting(400));
    is(prefill, "triptych_waiting_sequences", 1.0);
    leaves(&fleet, waits, "while queued at prefill", |fleet| {
        let [prefill, decode] = ['q', 'd'].map(|letter| &fleet.look_at(letter).role);
        prefill.metric("triptych_waiting_sequences", &[]) == 0.0
            && prefill.metric("triptych_calls", &[]) == 1.0
            && decode.metric("triptych_calls", &[]) == 1.0
    });
    // Who stays is answered, and once it is, its blocks have arrived and its promise is used up.
    read_pieces(&at_work, 2);
    is(decode, "triptych_calls", 1.0);
    is(prefill, "triptych_calls", 0.0);

    let n_steps = prefill.metric("triptych_steps_total", &[]);
    let waits = begin(&fleet.url, &long_prompt(N_LONG_PROMPT_TOKENS + 1, 400));
    is(decode, "triptych_calls", 2.0);
    leaves(&fleet, waits, "while it waits for decode's promise", |fleet| {
        fleet.look_at('d').role.metric("triptych_calls", &[]) == 1.0
    });
    // Nothing was promised, so nobody began what could not go on.
    assert_eq!(prefill.metric("triptych_steps_total", &[]), n_steps);
    read_pieces(&at_work, 2);
    drop(at_work);
    let took = fleet.expect_idle(WITHIN);
    println!("the one at work: all given back after {took:.2?}");
}

/// The client leaves; what it held must be back in time, and nothing of anybody else's.
fn leaves(fleet: &Fleet, client: TcpStream, moment: &str, is_back: impl Fn(&Fleet) -> bool) {
    let left = Instant::now();
    drop(client);
    let came_back = becomes_true(WITHIN, || is_back(fleet));
    assert!(came_back, "{moment}: {WITHIN:?} later {:?}", fleet.holdings());
    println!("{moment}: its place was free after {:.2?}", left.elapsed());
}

#[test]
fn a_worker_that_is_asked_to_leave_breaks_nothing_off() {
    if !are_installed() {
        return;
    }
    let _turn = Turn::alone();
    let sheet = sheet(long_questions(12, 150));
    let Some(mut fleet) = Fleet::start("auto", "epdd", &[]) else { return };
    let load = Load::start(&fleet.url, &sheet, 8);
    load.expect_more(8);
    let leaving = fleet.first('d');
    let runs = || leaving.role.metric("triptych_running_sequences", &[]) > 0.0;
    assert!(becomes_true(PATIENCE, runs), "it was never at work");
    let asked_to = Instant::now();
    leaving.role.process.signal(Signal::Term);
    let status = leaving.role.process.expect_end();
    let took = asked_to.elapsed();
    assert!(status.success(), "{status}:\n{}", leaving.role.process.log());
    load.expect_more(8);
    let asked = load.finish();
    let slowest = sheet.check(&asked);
    println!("left after {took:.2?}; {} answers, slowest {slowest:.2?}", asked.len());
    fleet.workers.retain(|worker| worker.role.get("/live").is_some());
    assert_eq!(fleet.workers.len(), 3);
    fleet.expect_idle(WITHIN);
}
