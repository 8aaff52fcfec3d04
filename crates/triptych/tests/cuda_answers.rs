//! A server on a GPU: it answers as one on the processor, under load, when clients leave, and with
//! too few KV blocks; and what cannot be used is refused in words.
//!
//! Where there is no GPU the first of these say so and pass; `TRIPTYCH_REQUIRE_CUDA=1` makes that
//! a failure. `TRIPTYCH_TEST_REQUESTS` and `TRIPTYCH_TEST_ABORT_REQUESTS` say how many they ask.

mod common;

use common::cluster::program;
use common::crowd::{Asker, Sheet, ask_all};
use common::fleet::size;
use common::process::PATIENCE;
use common::questions::{Question, long_questions, questions};
use common::{TOPOLOGIES, TestServer, demo_model};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tensor::cuda::CudaOptions;
use tensor::{DType, Device};
use tokio::task::block_in_place;

/// Different questions.
const N_QUESTIONS: usize = 50;

/// Requests at a time.
const N_STREAMS: usize = 64;

/// Requests at a time where some clients leave.
const N_STREAMS_ABORTED: usize = 128;

/// One client in so many leaves before the end.
const ABORT_EVERY: usize = 3;

/// Events that a client who leaves reads at most before.
const EVENTS_READ_MAX: usize = 12;

/// All that anybody holds is given back within this time.
const RELEASE_TIME: Duration = Duration::from_secs(5);

const ON_GPU: [&str; 4] = ["--device", "cuda", "--dtype", "f32"];

const IN_16_BITS: [&str; 4] = ["--device", "cuda", "--dtype", "bf16"];

const DETERMINISTIC: [&str; 2] = ["--override-engine-args", r#"{"deterministic": true}"#];

/// Two tokens are nearly tied if their log probabilities are no farther apart.
const NEAR_TIE: f64 = 0.125;

/// Alternatives that are asked for, among which the other device's token must be.
const N_ALTERNATIVES: usize = 5;

/// KV blocks for a few sequences only.
const SCARCE: [&str; 2] =
    ["--override-engine-args", r#"{"kv_cache_config": {"max_tokens": 2560}}"#];

/// Whether there is a GPU to test on; where there is none, a line says so.
fn has_gpu() -> bool {
    let options = CudaOptions { ordinal: 0, compute: DType::F32, deterministic: false };
    let Err(why) = Device::cuda(options) else { return true };
    let is_required = std::env::var_os("TRIPTYCH_REQUIRE_CUDA").is_some_and(|v| v == "1");
    assert!(!is_required, "no CUDA device: {why}");
    eprintln!("skipped: no CUDA device ({why})");
    false
}

/// Questions with the processor's answers.
async fn sheet(questions: Vec<Question>) -> Sheet {
    let server = TestServer::start("agg", &[]).await;
    block_in_place(|| Sheet::fill(&server.url, questions))
}

#[tokio::test(flavor = "multi_thread")]
async fn cuda_gives_the_processors_tokens_in_every_topology() {
    if !has_gpu() {
        return;
    }
    let sheet = sheet(questions(N_QUESTIONS)).await;
    let n = size("TRIPTYCH_TEST_REQUESTS", 500);
    for roles in TOPOLOGIES {
        let server = TestServer::start(roles, &ON_GPU).await;
        let began = Instant::now();
        let asked = block_in_place(|| ask_all(&server.url, &sheet.questions, n, N_STREAMS));
        let slowest = sheet.check(&asked);
        let rate = n as f64 / began.elapsed().as_secs_f64();
        println!("{roles}: {n} at {N_STREAMS} streams, {rate:.0}/s, slowest {slowest:.2?}");
        server.wait_until_idle(RELEASE_TIME).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cuda_takes_everything_back_from_clients_that_leave() {
    if !has_gpu() {
        return;
    }
    let sheet = sheet(questions(N_QUESTIONS)).await;
    for roles in TOPOLOGIES {
        let server = TestServer::start(roles, &ON_GPU).await;
        let n = size("TRIPTYCH_TEST_ABORT_REQUESTS", 5000);
        let began = Instant::now();
        block_in_place(|| ask_and_leave(&server, &sheet, n));
        let rate = n as f64 / began.elapsed().as_secs_f64();
        println!("{roles}: {n} at {N_STREAMS_ABORTED} streams, {rate:.0}/s, a third left early");
        server.wait_until_idle(RELEASE_TIME).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cuda_with_too_few_blocks_preempts_and_answers_right() {
    if !has_gpu() {
        return;
    }
    check_scarcity(&ON_GPU).await;
}

/// Where 16 bits lead to another token than 32 on the processor, it was as good as that one.
#[tokio::test(flavor = "multi_thread")]
async fn cuda_in_16_bits_differs_only_where_two_tokens_are_nearly_tied() {
    if !has_gpu() {
        return;
    }
    let n = size("TRIPTYCH_TEST_REQUESTS", 500);
    let questions: Vec<Question> = questions(n).into_iter().map(with_alternatives).collect();
    let exact = answers(&TestServer::start("agg", &[]).await, &questions);
    let found = answers(&TestServer::start("agg", &IN_16_BITS).await, &questions);
    let ties: Vec<f64> =
        exact.iter().zip(&found).filter_map(|(exact, found)| distance(exact, found)).collect();
    println!("{} of {n} answers differ; at the first other token: {ties:.3?}", ties.len());
    assert!(ties.iter().all(|&tie| tie <= NEAR_TIE), "not a near tie");
}

#[tokio::test(flavor = "multi_thread")]
async fn cuda_that_is_deterministic_answers_alike_in_any_batch() {
    if !has_gpu() {
        return;
    }
    let flags = [&IN_16_BITS[..], &DETERMINISTIC].concat();
    let server = TestServer::start("agg", &flags).await;
    let ask_all = |n, n_streams| {
        let all = questions(N_QUESTIONS);
        block_in_place(|| ask_all(&server.url, &all, n, n_streams))
    };
    let sheet = Sheet::of(questions(N_QUESTIONS), ask_all(N_QUESTIONS, 1));
    for n_streams in [2, 7, 16, N_STREAMS] {
        sheet.check(&ask_all(10 * N_QUESTIONS, n_streams));
    }
}

/// A question whose answer lists the likeliest tokens of each place.
fn with_alternatives(mut question: Question) -> Question {
    let fields = question.body.as_object_mut().unwrap();
    fields.remove("stream_options");
    fields.insert("stream".to_owned(), false.into());
    fields.insert("logprobs".to_owned(), true.into());
    fields.insert("top_logprobs".to_owned(), N_ALTERNATIVES.into());
    question
}

/// The tokens of each answer with their log probabilities, as the API gives them.
fn answers(server: &TestServer, questions: &[Question]) -> Vec<Vec<Value>> {
    let asker = Asker::new(&server.url);
    let one = |question: &Question| {
        let answer = asker.whole(&question.body).unwrap();
        answer["choices"][0]["logprobs"]["content"].as_array().unwrap().clone()
    };
    block_in_place(|| questions.iter().map(one).collect())
}

/// How much less likely `exact` holds the first token that differs; none if the answers are equal.
fn distance(exact: &[Value], found: &[Value]) -> Option<f64> {
    let (exact, found) = exact.iter().zip(found).find(|(a, b)| a["bytes"] != b["bytes"])?;
    let tops = exact["top_logprobs"].as_array().unwrap();
    let other = tops.iter().find(|top| top["bytes"] == found["bytes"]);
    let of_other = other.map_or(f64::NEG_INFINITY, |top| top["logprob"].as_f64().unwrap());
    Some(exact["logprob"].as_f64().unwrap() - of_other)
}

/// The same where there is no GPU, so that the test above is known to bring about what it is for.
#[tokio::test(flavor = "multi_thread")]
async fn too_few_blocks_preempt_and_answer_right() {
    check_scarcity(&[]).await;
}

async fn check_scarcity(flags: &[&str]) {
    let sheet = sheet(long_questions(N_QUESTIONS / 2, 200)).await;
    let flags = [flags, &SCARCE].concat();
    let server = TestServer::start("agg", &flags).await;
    let asked =
        block_in_place(|| ask_all(&server.url, &sheet.questions, 2 * N_QUESTIONS, N_STREAMS));
    sheet.check(&asked);
    let stats = server.served.workers[0].view().engine().stats();
    assert!(stats.scheduler.n_preempted > 0, "there were enough blocks");
    println!("{} were preempted", stats.scheduler.n_preempted);
    server.wait_until_idle(RELEASE_TIME).await;
}

/// Asks `n` questions, some of them by clients that leave.
fn ask_and_leave(server: &TestServer, sheet: &Sheet, n: usize) {
    let (next, asker) = (AtomicUsize::new(0), Asker::new(&server.url));
    let client = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= n {
                return;
            }
            let idx = number % sheet.questions.len();
            if number.is_multiple_of(ABORT_EVERY) {
                leave(server, &sheet.questions[idx], number % (EVENTS_READ_MAX + 1));
            } else {
                sheet.check(&[asker.time(idx, &sheet.questions[idx])]);
            }
        }
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..N_STREAMS_ABORTED).map(|_| scope.spawn(client)).collect();
        clients.into_iter().for_each(|client| client.join().unwrap());
    });
}

/// Sends a question, reads so many lines of the answer (none of the head either for 0), and leaves.
fn leave(server: &TestServer, question: &Question, n_events: usize) {
    let mut body = question.body.clone();
    body["stream"] = true.into();
    let body = body.to_string();
    let mut socket = TcpStream::connect(server.served.address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes()).unwrap();
    socket.write_all(body.as_bytes()).unwrap();
    let lines = BufReader::new(socket).lines().map_while(Result::ok);
    let events = lines.filter(|line| line.starts_with("data:")).take(n_events);
    assert!(events.count() <= n_events);
}

/// Status and all words of `triptych serve` with the demo model and `flags`, which it refuses.
fn refusal(flags: &[&str]) -> String {
    let mut command = program("triptych");
    command.args(["serve", "--http-host", "127.0.0.1", "--http-port", "0", "--model-path"]);
    let output = command.arg(demo_model()).args(flags).output().unwrap();
    assert!(!output.status.success(), "{flags:?} was accepted");
    [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat()
}

#[test]
fn a_gpu_that_is_not_there_is_refused_by_its_flag() {
    let words = refusal(&["--device", "cuda:99"]);
    let whys = ["without CUDA kernels", "NVIDIA driver", "there is no GPU 99"];
    let says_why = whys.iter().any(|why| words.contains(why));
    assert!(words.contains("--device cuda:99: ") && says_why, "{words}");
}

#[test]
fn sixteen_bits_are_refused_where_there_is_no_gpu() {
    if Device::cuda(CudaOptions { ordinal: 0, compute: DType::Bf16, deterministic: false }).is_ok()
    {
        return;
    }
    let words = refusal(&["--device", "auto", "--dtype", "bf16"]);
    assert!(words.contains("--dtype: only a GPU computes in 16 bits"), "{words}");
}
