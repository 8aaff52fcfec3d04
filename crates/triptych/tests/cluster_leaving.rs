//! Those who leave: clients, from every stage, `TRIPTYCH_TEST_LEAVINGS` times; and a worker that is
//! asked to, under load.

mod common;

use common::crowd::Load;
use common::fleet::{Fleet, Turn, Worker, sheet, size};
use common::process::{PATIENCE, Signal, becomes_true};
use common::questions::{Question, about_sample, long_questions};
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
