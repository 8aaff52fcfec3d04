//! Frontend and workers as processes of their own, over real etcd and NATS: they answer as one
//! process does, whoever comes first, and leave without a trace.

mod common;

use common::cluster::{Cluster, Meeting, Role, ask, get, post_chat};
use common::process::{PATIENCE, Signal, becomes_true};
use common::servers::{Etcd, Nats, are_installed, free_port};
use common::{TestServer, demo_model};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// An instance that withdraws is gone long before its registration would have expired.
const WITHDRAWAL_TIME: Duration = Duration::from_secs(2);

const ALL_STAGES: &[&str] = &["worker"];
const SEPARATE_STAGES: &[&str] = &["encode-worker", "prefill-worker", "decode-worker"];

fn start(place: &Meeting, programs: &[&str]) -> Vec<Role> {
    let roles: Vec<Role> = programs.iter().map(|program| place.role(program, &[])).collect();
    roles.iter().for_each(Role::expect_health);
    roles
}

/// A picture that is too large to travel inside a message, as part of a chat.
fn large_picture() -> Value {
    use base64::Engine;
    let mut picture = std::fs::read(demo_model().join("samples/four-shapes.jpg")).unwrap();
    // What follows the end of a JPEG is ignored.
    picture.resize(200 << 10, 0);
    let data = base64::engine::general_purpose::STANDARD.encode(picture);
    let url = format!("data:image/jpeg;base64,{data}");
    json!({"type": "image_url", "image_url": {"url": url}})
}

/// A long answer, drawn at random from a seed, with the likelihood of each token.
fn drawn(seed: u64) -> Value {
    let text = json!({"type": "text", "text": "What is in the picture?"});
    json!({"model": "shapes", "seed": seed, "temperature": 1.2, "max_tokens": 40,
           "ignore_eos": true, "logprobs": true, "top_logprobs": 2,
           "messages": [{"role": "user", "content": [large_picture(), text]}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn separate_processes_answer_as_one_does() {
    let one = TestServer::start("agg", &[]).await;
    let one = one.url.clone();
    let compare = move || {
        for transport in ["tcp", "auto"] {
            for programs in [ALL_STAGES, SEPARATE_STAGES] {
                answers_agree(&one, transport, programs);
            }
        }
    };
    tokio::task::spawn_blocking(compare).await.unwrap();
}

fn answers_agree(one: &str, transport: &'static str, programs: &[&str]) {
    let Some(cluster) = Cluster::start(transport) else { return };
    let workers = start(&cluster.place, programs);
    let serves_ucx = workers[0].process.expect_line("serves its memory at").contains("ucx://");
    assert_eq!(serves_ucx, transport == "auto" && transport_ucx::check().is_ok());
    let frontend = cluster.role("frontend", &[]);
    frontend.expect_health();
    let url = frontend.url();
    let question = "What is in the picture?";
    let answer = ask(&url, question, &["two-shapes.png"]);
    assert_eq!(answer.as_deref(), Ok("From left to right: a red circle, a blue square."));
    for seed in 0..2 {
        let (status, apart) = post_chat(&url, &drawn(seed));
        assert_eq!(status, 200, "{apart}");
        let (_, together) = post_chat(one, &drawn(seed));
        assert_eq!(apart["choices"], together["choices"], "{transport} {programs:?}");
        assert_eq!(apart["usage"]["prompt_tokens"], together["usage"]["prompt_tokens"]);
    }
}

#[test]
fn it_does_not_matter_who_comes_first() {
    if !are_installed() {
        return;
    }
    let nats = Nats::start();
    let ports = [free_port(), free_port()];
    let etcd_url = format!("http://127.0.0.1:{}", ports[0]);
    let place = Meeting::over_tcp(etcd_url, nats.url());
    // The frontend first, then workers, etcd last.
    let frontend = place.role("frontend", &[]);
    let workers = SEPARATE_STAGES.iter().rev().map(|program| place.role(program, &[]));
    let workers: Vec<Role> = workers.collect();
    workers[0].expect_lack("etcd");
    frontend.expect_lack("etcd");
    assert_eq!(frontend.get("/live").map(|(status, _)| status), Some(200));
    let _etcd = Etcd::start_at(ports).expect("nobody took its ports");
    workers.iter().for_each(Role::expect_health);
    frontend.expect_health();
    let answer = ask(&frontend.url(), "What number is written?", &["forty-two.png"]);
    assert_eq!(answer.as_deref(), Ok("42"));
    // A frontend that comes after the workers finds them at once.
    let late = place.role("frontend", &[]);
    late.expect_health();
    assert_eq!(
        ask(&late.url(), "What number is written?", &["forty-two.png"]).as_deref(),
        Ok("42")
    );
}

#[test]
fn a_frontend_without_workers_says_so() {
    let Some(cluster) = Cluster::start("tcp") else { return };
    let frontend = cluster.role("frontend", &[]);
    frontend.expect_lack("no worker has registered");
    let (status, _) = get(&format!("{}/health", frontend.url())).unwrap();
    assert_eq!(status, 503);
    let decode = start(&cluster.place, &["decode-worker"]);
    frontend.expect_lack("shapes: no prefill worker");
    let hello = json!({"model": "shapes", "messages": [{"role": "user", "content": "Hello!"}]});
    let (status, body) = post_chat(&frontend.url(), &hello);
    assert_eq!((status, body.to_string().contains("prefill")), (503, true), "{body}");
    drop(decode);
}

#[test]
fn workers_that_are_asked_to_stop_leave_and_finish_their_answers() {
    for programs in [ALL_STAGES, SEPARATE_STAGES] {
        let Some(cluster) = Cluster::start("tcp") else { return };
        let mut workers = start(&cluster.place, programs);
        let frontend = cluster.role("frontend", &[]);
        frontend.expect_health();
        let url = frontend.url();
        let long = json!({"model": "shapes", "max_tokens": 800, "ignore_eos": true,
                          "messages": [{"role": "user", "content": "Hello!"}]});
        let asking = std::thread::spawn(move || post_chat(&url, &long));
        // The last of them generates.
        let runs = || workers[programs.len() - 1].metric("triptych_running_sequences", &[]) > 0.0;
        assert!(becomes_true(PATIENCE, runs), "the answer never began");
        let asked_to_stop = Instant::now();
        workers.iter().for_each(|worker| worker.process.signal(Signal::Term));
        frontend.expect_lack("no worker has registered");
        assert!(asked_to_stop.elapsed() < WITHDRAWAL_TIME, "{:?}", asked_to_stop.elapsed());
        let (status, body) = asking.join().unwrap();
        assert_eq!(status, 200, "{body}");
        assert_eq!(body["usage"]["completion_tokens"], 800);
        for worker in &mut workers {
            let status = worker.process.expect_end();
            assert!(status.success(), "{status}");
        }
    }
}

#[test]
fn a_worker_that_still_waits_for_etcd_can_be_stopped() {
    let port = free_port();
    let [etcd_url, nats_url] =
        ["http", "nats"].map(|scheme| format!("{scheme}://127.0.0.1:{port}"));
    let place = Meeting::over_tcp(etcd_url, nats_url);
    for program in ["worker", "frontend"] {
        let mut role = place.role(program, &[]);
        role.expect_lack("connecting to etcd at http://127.0.0.1:");
        role.stop();
    }
}

#[test]
fn a_prefill_worker_that_was_told_who_encodes_has_no_tower() {
    let Some(cluster) = Cluster::start("tcp") else { return };
    let encoders = ["--encode-endpoint", "dyn://dynamo.encode.generate"];
    let prefill = cluster.role("prefill-worker", &encoders);
    let _decode = start(&cluster.place, &["decode-worker"]);
    prefill.expect_health();
    let frontend = cluster.role("frontend", &[]);
    frontend.expect_lack("shapes: no encode worker");
    let url = frontend.url();
    let refused = ask(&url, "What number is written?", &["forty-two.png"]).unwrap_err();
    assert!(refused.contains("503") && refused.contains("encode"), "{refused}");
    assert!(ask(&url, "Hello!", &[]).unwrap().starts_with("Hello!"), "text needs no encoder");
    let _encode = start(&cluster.place, &["encode-worker"]);
    frontend.expect_health();
    assert_eq!(ask(&url, "What number is written?", &["forty-two.png"]).as_deref(), Ok("42"));
}

#[test]
fn one_process_may_serve_for_others_as_well() {
    let Some(cluster) = Cluster::start("tcp") else { return };
    let mut one = cluster.role("triptych", &["--roles", "p,d"]);
    one.expect_health();
    let frontend = cluster.role("frontend", &[]);
    frontend.expect_health();
    for url in [one.url(), frontend.url()] {
        let answer = ask(&url, "What number is written?", &["forty-two.png"]);
        assert_eq!(answer.as_deref(), Ok("42"));
    }
    one.stop();
    frontend.expect_lack("no worker has registered");
}

#[test]
fn a_second_signal_ends_a_worker_at_once() {
    let Some(cluster) = Cluster::start("tcp") else { return };
    let flags = ["--engine", "mock", "--mock-step-us", "50000", "--drain-timeout-s", "600"];
    let mut worker = cluster.role("worker", &flags);
    worker.expect_health();
    let frontend = cluster.role("frontend", &[]);
    frontend.expect_health();
    let url = frontend.url();
    let long = json!({"model": "shapes", "max_tokens": 1500, "ignore_eos": true,
                      "messages": [{"role": "user", "content": "Hello!"}]});
    let _asking = std::thread::spawn(move || {
        let agent = ureq::Agent::config_builder().proxy(None).build().new_agent();
        let request = agent.post(format!("{url}/v1/chat/completions"));
        // It is broken off, which is what this is about.
        let _ = request.header("content-type", "application/json").send(long.to_string());
    });
    let runs = || worker.metric("triptych_running_sequences", &[]) > 0.0;
    assert!(becomes_true(PATIENCE, runs), "the answer never began");
    worker.process.signal(Signal::Term);
    worker.process.expect_line("stopping after SIGTERM; a second signal ends");
    worker.expect_lack("the process is stopping");
    worker.process.signal(Signal::Term);
    let status = worker.process.expect_end();
    assert_eq!(status.code(), Some(128 + 15), "{status}");
}

#[test]
fn what_cannot_be_reached_is_named_with_its_flag() {
    if !are_installed() {
        return;
    }
    let nowhere = |scheme| format!("{scheme}://127.0.0.1:{}", free_port());
    let (etcd, nats) = (Etcd::start(), Nats::start());
    let check = |place: &Meeting, program: &str, flag: &str, url: &str| {
        let mut role = place.role(program, &["--start-timeout-s", "1"]);
        let status = role.process.expect_end();
        let log = role.process.log();
        assert_eq!(status.code(), Some(1), "{log}");
        let last = log.lines().last().unwrap_or_default();
        assert!(last.starts_with(program) && last.contains(flag) && last.contains(url), "{log}");
    };
    let place = Meeting::over_tcp(nowhere("http"), nats.url());
    for program in ["frontend", "worker"] {
        check(&place, program, "--etcd-endpoints", &place.etcd_url);
    }
    let place = Meeting::over_tcp(etcd.url(), nowhere("nats"));
    check(&place, "decode-worker", "--nats-url", &place.nats_url);
}
