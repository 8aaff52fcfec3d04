//! One process under clients of every manner: some read, some dawdle, some leave at any moment.
//! Every request ends exactly once, every answer is right, and nothing is left behind.
//! `TRIPTYCH_TEST_STREAM_REQUESTS` says how many requests.

mod common;

use bench::rng::Rng;
use common::cluster::Role;
use common::crowd::{Asked, Sheet, ask_all as ask_at_once, failures};
use common::fleet::{Turn, expect_idle_process, one_process, resident_kib, sheet, size, slope};
use common::questions::{Question, brief_questions, long_questions, questions};
use common::soaker::{Manner, ask};
use serde_json::json;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Clients at a time.
const N_CLIENTS: usize = 64;

/// Different questions, and those of them whose answers fill a slow reader's buffers.
const N_QUESTIONS: usize = 50;
const N_LONG_QUESTIONS: usize = 2;
const N_LONG_TOKENS: u32 = 200;

/// All that anybody holds is given back within this time.
const RELEASE_TIME: Duration = Duration::from_secs(2);

/// Memory is looked at so many times.
const N_LOOKS: usize = 10;

/// Requests after which a process has what it needs. Shorter runs than twice that say nothing of
/// memory.
const N_WARM_UP: usize = 1000;

/// From one half of the time after the warm-up to the other, a process may grow by this much:
/// twice what the C library's allocator was seen to, over 10,000 requests.
const GROWTH_KIB_MAX: u64 = 40 << 10;

/// Requests that are nothing but overhead: clients, how many fill what there is to fill, and how
/// many follow. Growth with each of them is a leak, however small.
const N_BRIEF_CLIENTS: usize = 16;
const N_BRIEF_WARM_UP: usize = 5000;
const N_BRIEF: usize = 10_000;
const LEAK_BYTES_MAX: u64 = 400;

/// What came of a request.
struct Outcome {
    manner: Manner,
    /// The answer, from clients that stayed.
    asked: Option<Asked>,
}

#[test]
fn every_request_ends_once_in_one_process() {
    soak("agg");
}

#[test]
fn every_request_ends_once_in_roles_of_one_process() {
    soak("e,p,d");
}

#[test]
fn memory_does_not_grow_with_the_number_of_requests() {
    let _turn = Turn::alone();
    let server = one_process("agg", &["--engine", "mock", "--mock-step-us", "0"]);
    let ask = |numbers: std::ops::Range<usize>| {
        let n = numbers.len();
        let began = Instant::now();
        let asked = ask_at_once(&server.system_url, &brief_questions(numbers), n, N_BRIEF_CLIENTS);
        assert!(failures(&asked).is_empty(), "{:?}", failures(&asked).first());
        let kib = resident_kib(server.process.id());
        println!("{n} requests in {:.1?}, {kib} KiB are resident", began.elapsed());
        kib
    };
    let before = ask(0..N_BRIEF_WARM_UP);
    let after = ask(N_BRIEF_WARM_UP..N_BRIEF_WARM_UP + N_BRIEF);
    let growth = (after.saturating_sub(before) << 10) / N_BRIEF as u64;
    println!("{growth} bytes a request");
    assert!(growth < LEAK_BYTES_MAX, "{growth} bytes a request: {before} KiB, then {after} KiB");
}

fn soak(roles: &str) {
    let _turn = Turn::alone();
    let sheet = Arc::new(sheet(streamed()));
    let server = one_process(roles, &[]);
    let n_blocks = server.metric("triptych_kv_blocks", &["state=\"total\""]);
    let n = size("TRIPTYCH_TEST_STREAM_REQUESTS", 400);
    let began = Instant::now();
    let (mut outcomes, mut looks) = (Vec::new(), Vec::new());
    for look in 0..N_LOOKS {
        let part = n * look / N_LOOKS..n * (look + 1) / N_LOOKS;
        outcomes.extend(ask_all(&server, &sheet, part));
        looks.push(resident_kib(server.process.id()));
    }
    let time = began.elapsed();
    let idle = expect_idle_process(&server, RELEASE_TIME);
    println!("{roles}: {n} requests in {time:.1?}, {:.1}/s", n as f64 / time.as_secs_f64());
    println!("all given back after {idle:.1?}");
    check_answers(&sheet, &outcomes);
    check_counts(&server, &outcomes);
    check_blocks(&server, n_blocks);
    check_memory(&looks, n);
}

/// Questions of every kind, all to be streamed.
fn streamed() -> Vec<Question> {
    let all = questions(N_QUESTIONS).into_iter();
    let all = all.chain(long_questions(N_LONG_QUESTIONS, N_LONG_TOKENS));
    let stream = |mut question: Question| {
        question.body["stream"] = json!(true);
        question.body["stream_options"] = json!({"include_usage": true});
        question
    };
    all.map(stream).collect()
}

/// Asks the questions of requests `part`, so many clients at a time.
fn ask_all(server: &Role, sheet: &Arc<Sheet>, part: std::ops::Range<usize>) -> Vec<Outcome> {
    let address: SocketAddr = server.system_url["http://".len()..].parse().unwrap();
    let (next, outcomes) = (Arc::new(AtomicUsize::new(part.start)), Arc::new(Mutex::default()));
    let client = || {
        let (sheet, next, outcomes) = (Arc::clone(sheet), Arc::clone(&next), Arc::clone(&outcomes));
        async move {
            loop {
                let idx = next.fetch_add(1, Ordering::Relaxed);
                if idx >= part.end {
                    return;
                }
                let outcome = request(address, &sheet, idx).await;
                let mut outcomes: std::sync::MutexGuard<'_, Vec<Outcome>> =
                    outcomes.lock().unwrap();
                outcomes.push(outcome);
            }
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut clients: JoinSet<()> = (0..N_CLIENTS).map(|_| client()).collect();
        while let Some(ended) = clients.join_next().await {
            ended.unwrap();
        }
    });
    Arc::into_inner(outcomes).unwrap().into_inner().unwrap()
}

/// Request `idx` of a soak, the same one every time.
async fn request(address: SocketAddr, sheet: &Sheet, idx: usize) -> Outcome {
    let mut rng = Rng::of(3, "soak", idx as u64);
    let manner = Manner::of(&mut rng);
    let question_idx = rng.below(sheet.questions.len());
    let body = sheet.questions[question_idx].body.to_string();
    let began = Instant::now();
    let result = ask(address, &body, manner, &mut rng).await.transpose();
    let asked = |result| Asked { idx: question_idx, result, began, time: began.elapsed() };
    Outcome { manner, asked: result.map(asked) }
}

fn n_of(outcomes: &[Outcome], manner: Manner) -> usize {
    outcomes.iter().filter(|outcome| outcome.manner == manner).count()
}

/// Whoever stayed got the right answer, whole and once.
fn check_answers(sheet: &Sheet, outcomes: &[Outcome]) {
    let asked: Vec<Asked> = outcomes.iter().filter_map(|it| it.asked.clone()).collect();
    let slowest = sheet.check(&asked);
    let n_slow = n_of(outcomes, Manner::Dawdles);
    println!(
        "{} read, {n_slow} dawdled; {} left asking, {} waiting, {} listening; slowest \
         {slowest:.2?}",
        n_of(outcomes, Manner::Reads),
        n_of(outcomes, Manner::LeavesAsking),
        n_of(outcomes, Manner::LeavesWaiting),
        n_of(outcomes, Manner::LeavesListening),
    );
    assert_eq!(asked.len(), n_of(outcomes, Manner::Reads) + n_slow, "who stays is answered");
}

/// Each request is counted once: as a success where it was read to its end, and otherwise as one or
/// the other, if it arrived whole before its client had left.
fn check_counts(server: &Role, outcomes: &[Outcome]) {
    let count = |status| {
        let labels = [status, "request_type=\"stream\""];
        server.metric("dynamo_frontend_requests_total", &labels) as usize
    };
    let (n_good, n_bad) = (count("status=\"success\""), count("status=\"error\""));
    let n_left = server.metric("dynamo_frontend_disconnected_clients", &[]) as usize;
    println!("counted: {n_good} successes, {n_left} clients that left");
    assert_eq!(n_bad, n_left, "nothing failed but by its client's leaving");
    let n_stayed = n_of(outcomes, Manner::Reads) + n_of(outcomes, Manner::Dawdles);
    assert!(n_good >= n_stayed, "{n_good} of {n_stayed}");
    let least = n_stayed + n_of(outcomes, Manner::LeavesListening);
    let most = least + n_of(outcomes, Manner::LeavesWaiting);
    assert!((least..=most).contains(&(n_good + n_bad)), "{n_good} + {n_bad} of {least} to {most}");
}

/// All blocks are free or cached, and as many as at the start.
fn check_blocks(server: &Role, n_blocks: f64) {
    let of_state = |state: &str| server.metric("triptych_kv_blocks", &[state]);
    let (free, cached) = (of_state("state=\"free\""), of_state("state=\"cached\""));
    println!("of {n_blocks} blocks {free} are free and {cached} cached");
    assert!(n_blocks > 0.0 && cached > 0.0);
    assert_eq!(free + cached, n_blocks);
}

/// Memory stays as it is after the warm-up.
fn check_memory(looks: &[u64], n: usize) {
    let n_part = n / N_LOOKS;
    let mib: Vec<u64> = looks.iter().map(|kib| kib >> 10).collect();
    println!("resident {mib:?} MiB, a look each {n_part} requests");
    if n < 2 * N_WARM_UP {
        return;
    }
    let first = N_WARM_UP.div_ceil(n_part) - 1;
    let per_thousand = slope(&looks[first..]) / n_part as f64 * 1000.0;
    println!("after the warm-up it grows by {per_thousand:.0} KiB in 1,000 requests");
    // Halves, because a single look is as uneven as what runs at that moment.
    let (early, late) = looks[first..].split_at((N_LOOKS - first) / 2);
    let mean = |looks: &[u64]| looks.iter().sum::<u64>() / looks.len() as u64;
    let growth = mean(late).saturating_sub(mean(early));
    assert!(growth < GROWTH_KIB_MAX, "it grows by {growth} KiB: {looks:?}");
}
