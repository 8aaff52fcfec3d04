//! Clients that leave, too many clients, and the end of the server.

use crate::client::{Server, read_until, request};
use crate::fake::{Fake, Step, admitted, finished, hello, say};
use crate::{body, chat};
use config::FrontendConfig;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::time::{sleep, timeout};
use types::output::FinishReason;

const CHAT: &str = "/v1/chat/completions";
const SHORT: Duration = Duration::from_millis(100);

/// The event of the last token of "Hel".
const LAST_TOKEN: &str = "\"content\":\"el\"";

/// Longest wait for what must happen.
const PATIENCE: Duration = Duration::from_secs(10);

fn post(more: serde_json::Value) -> Vec<u8> {
    request("POST", CHAT, &[], body(more).to_string().as_bytes())
}

/// Waits until `condition`; the promise is that the work of a client who left ends within a second.
async fn within_a_second(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(1), "{what} took over a second");
        sleep(Duration::from_millis(5)).await;
    }
}

/// A client leaves before or after the first token, of a streamed or a whole answer.
#[tokio::test]
async fn work_ends_when_the_client_leaves() {
    let before = || vec![admitted(), Step::Hang];
    let after = || vec![admitted(), say(0, "Hel"), Step::Hang];
    for (script, stream) in [(before(), true), (before(), false), (after(), true), (after(), false)]
    {
        let fake = Fake::new(script);
        let server = Server::start(&fake).await;
        let mut connection = server.open(&post(json!({ "stream": stream }))).await;
        within_a_second("asking", || fake.asked.lock().unwrap().len() == 1).await;
        if stream && fake.n_cancelled() == 0 {
            let _ = timeout(SHORT, read_until(&mut connection, LAST_TOKEN)).await;
        }
        assert_eq!(fake.n_cancelled(), 0);
        drop(connection);
        within_a_second("cancelling", || fake.n_cancelled() == 1).await;
        within_a_second("counting", || server.counts("dynamo_frontend_disconnected_clients 1"))
            .await;
        assert!(server.counts("dynamo_frontend_inflight_requests{model=\"tiny/vl\"} 0"));
    }
}

#[tokio::test]
async fn one_request_too_many_is_a_429() {
    let mut cfg = FrontendConfig::default();
    cfg.limits.n_inflight_max = 1;
    let fake = Fake::new(vec![admitted(), Step::Hang]);
    let server = Server::configured(&fake, cfg).await;
    let first = server.open(&post(json!({}))).await;
    within_a_second("asking", || fake.asked.lock().unwrap().len() == 1).await;
    let second = chat(&server, &body(json!({}))).await;
    assert_eq!(second.status, 429);
    assert_eq!(second.header("retry-after"), Some("1"));
    drop(first);
    within_a_second("cancelling", || fake.n_cancelled() == 1).await;
    let _third = server.open(&post(json!({}))).await;
    within_a_second("asking again", || fake.asked.lock().unwrap().len() == 2).await;
}

#[tokio::test]
async fn bodies_together_have_a_limit() {
    let mut cfg = FrontendConfig::default();
    cfg.limits.body_bytes_held_max = 64 << 10;
    let server = Server::configured(&Fake::new(hello()), cfg).await;
    let half = post(json!({}));
    let slow = server.open(&half[..half.len() - 1]).await;
    sleep(SHORT).await;
    assert_eq!(chat(&server, &body(json!({}))).await.status, 429);
    drop(slow);
    sleep(SHORT).await;
    assert_eq!(chat(&server, &body(json!({}))).await.status, 200);
}

#[tokio::test]
async fn senders_have_a_deadline() {
    let cfg = FrontendConfig { receive_deadline: SHORT, ..Default::default() };
    let server = Server::configured(&Fake::new(hello()), cfg).await;
    let whole = post(json!({}));
    let response = server.exchange(&whole[..whole.len() - 1]).await;
    assert_eq!(response.status, 408);
    assert_eq!(server.exchange(b"GET /live HTTP/1.1\r\nhost").await.body, "", "closed, no answer");
}

/// Who asks much and takes nothing is let go, with what it holds.
#[tokio::test]
async fn readers_have_a_deadline() {
    const N_REQUESTS: usize = 20_000;
    let cfg = FrontendConfig { send_deadline: SHORT, ..Default::default() };
    let server = Server::configured(&Fake::new(hello()), cfg).await;
    let asked = b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n".repeat(N_REQUESTS);
    let connection = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let begun = Instant::now();
    let mut n_sent = 0;
    // It hangs up, or else soon takes no more requests.
    while begun.elapsed() < PATIENCE && connection.take_error().unwrap().is_none() {
        n_sent += connection.try_write(&asked[n_sent..]).unwrap_or(0);
        sleep(SHORT / 10).await;
    }
    assert!(begun.elapsed() < PATIENCE, "who takes nothing may stay");
    assert_eq!(chat(&server, &body(json!({}))).await.status, 200, "others are served");
}

#[tokio::test]
async fn draining_finishes_what_is_at_work() {
    let script = vec![
        admitted(),
        say(0, "Hel"),
        Step::Pause(SHORT),
        say(0, "lo"),
        finished(0, FinishReason::Stop),
    ];
    let fake = Fake::new(script);
    let server = Server::start(&fake).await;
    let mut running = server.open(&post(json!({"stream": true}))).await;
    // Kept alive by the client: an idle connection must not hold up the end.
    let _idle = server.open(b"GET /live HTTP/1.1\r\nhost: a\r\n\r\n").await;
    read_until(&mut running, LAST_TOKEN).await;
    server.trigger.begin();
    sleep(SHORT / 4).await;
    assert!(tokio::net::TcpStream::connect(server.address).await.is_err(), "no new connections");
    let rest = read_until(&mut running, "[DONE]").await;
    assert!(rest.contains("lo"), "{rest}");
    timeout(Duration::from_secs(1), server.serving).await.unwrap().unwrap().unwrap();
    assert_eq!(fake.n_cancelled(), 0);
}

#[tokio::test]
async fn draining_has_a_deadline() {
    let cfg = FrontendConfig { drain_deadline: SHORT, ..Default::default() };
    let fake = Fake::new(vec![admitted(), say(0, "Hel"), Step::Hang]);
    let server = Server::configured(&fake, cfg).await;
    let mut streamed = server.open(&post(json!({"stream": true}))).await;
    let mut whole = server.open(&post(json!({}))).await;
    read_until(&mut streamed, LAST_TOKEN).await;
    within_a_second("asking", || fake.asked.lock().unwrap().len() == 2).await;
    server.trigger.begin();
    let end = read_until(&mut streamed, "event: error").await;
    assert!(end.contains("\"unavailable\""), "{end}");
    let mut response = String::new();
    whole.read_to_string(&mut response).await.unwrap();
    assert!(response.starts_with("HTTP/1.1 503"), "{response}");
    timeout(Duration::from_secs(1), server.serving).await.unwrap().unwrap().unwrap();
    assert_eq!(fake.n_cancelled(), 2);
}

/// Many at once, each with its own answer, whole or streamed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_at_once() {
    let server = Arc::new(Server::start(&Fake::new(hello())).await);
    let ask = |idx: usize| {
        let server = Arc::clone(&server);
        tokio::spawn(async move { chat(&server, &body(json!({"stream": idx < 100}))).await })
    };
    let asked: Vec<_> = (0..200).map(ask).collect();
    for (idx, response) in asked.into_iter().enumerate() {
        let response = response.await.unwrap();
        assert_eq!(response.status, 200);
        if idx < 100 {
            assert_eq!(response.streamed_text(), "Hello you.");
        } else {
            assert_eq!(response.json()["choices"][0]["message"]["content"], "Hello you.");
        }
    }
}
