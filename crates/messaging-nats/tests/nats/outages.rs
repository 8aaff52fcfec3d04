//! Servers that die, come back, stand still, or are late.

use crate::support::{
    PATIENCE, Server, call, connect, failure_within, n_hanging, next, next_within, serve, until,
};
use bytes::Bytes;
use futures::StreamExt;
use std::time::{Duration, Instant};
use types::ErrorKind;

const HERE: &str = "test.outage";

/// Time in which a stream over a dead server must have ended.
const GIVEN_UP_MAX: Duration = Duration::from_millis(2500);

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_and_started_again_is_used_again() {
    let mut server = Server::start(&[]);
    let (callee, caller) = (connect(&server).await, connect(&server).await);
    let _served = serve(&callee, HERE).await;
    let mut running = call(&caller, HERE, "hang");
    next(&mut running).await.unwrap();
    server.kill();
    let failure = failure_within(&mut running, GIVEN_UP_MAX).await;
    assert_eq!(failure.kind, ErrorKind::PeerLost);
    until("the handler is dropped", || n_hanging() == 0).await;
    let refused = failure_within(&mut call(&caller, HERE, "x"), Duration::from_millis(100)).await;
    assert_eq!(refused.kind, ErrorKind::Unavailable);
    server.restart();
    let restarted = Instant::now();
    loop {
        let answer = next_within(&mut call(&caller, HERE, "again"), PATIENCE).await;
        match answer {
            Ok(answer) => break assert_eq!(answer, "again"),
            Err(failure) => assert!(restarted.elapsed() < PATIENCE, "{failure}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(restarted.elapsed() < Duration::from_secs(2), "{:?}", restarted.elapsed());
    assert_eq!((caller.stats().n_reconnects, callee.stats().n_reconnects), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_live_through_a_short_standstill_of_the_server() {
    let server = Server::start(&[]);
    let (callee, caller) = (connect(&server).await, connect(&server).await);
    let _served = serve(&callee, HERE).await;
    let mut replies = call(&caller, HERE, "slow 60");
    next(&mut replies).await.unwrap();
    server.signal("-STOP");
    tokio::time::sleep(Duration::from_secs(1)).await;
    server.signal("-CONT");
    let replies = tokio::time::timeout(PATIENCE, replies.collect::<Vec<_>>()).await.unwrap();
    let expected: Vec<_> = (1..60).map(|i| Ok(Bytes::from(i.to_string()))).collect();
    assert_eq!(replies, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_in_a_long_standstill_of_the_server() {
    let server = Server::start(&[]);
    let (callee, caller) = (connect(&server).await, connect(&server).await);
    let _served = serve(&callee, HERE).await;
    let mut replies = call(&caller, HERE, "hang");
    next(&mut replies).await.unwrap();
    server.signal("-STOP");
    let stopped = Instant::now();
    let failure = failure_within(&mut replies, GIVEN_UP_MAX).await;
    assert_eq!(failure.kind, ErrorKind::PeerLost);
    until("the handler is dropped", || n_hanging() == 0).await;
    let unheard = failure_within(&mut call(&caller, HERE, "x"), GIVEN_UP_MAX).await;
    assert!(matches!(unheard.kind, ErrorKind::PeerLost | ErrorKind::Unavailable), "{unheard}");
    tokio::time::sleep(Duration::from_secs(3).saturating_sub(stopped.elapsed())).await;
    server.signal("-CONT");
    crate::support::eventually(&caller, HERE, "back", "back").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_may_be_late() {
    let mut server = Server::not_started(&[]);
    let connecting = tokio::spawn(messaging_nats::connect(server.config()));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!connecting.is_finished());
    server.restart();
    let messaging = tokio::time::timeout(PATIENCE, connecting).await.unwrap().unwrap().unwrap();
    let _served = serve(&messaging, HERE).await;
    assert_eq!(next(&mut call(&messaging, HERE, "here")).await, Ok(Bytes::from("here")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_never_comes_is_named() {
    let server = Server::not_started(&[]);
    let mut config = server.config();
    config.start_deadline = Duration::from_millis(500);
    let begun = Instant::now();
    let failure = messaging_nats::connect(config).await.err().expect("nobody is there");
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert_eq!(failure.kind, ErrorKind::Unavailable);
    let place = format!("no NATS server at 127.0.0.1:{} could be reached in 0.5 s", server.port);
    assert!(failure.message.starts_with(&place), "{failure}");
}
