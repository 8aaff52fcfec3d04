//! Processes that die or stand still, and those that are left behind.

use crate::child::{HERE, Process, THERE};
use crate::support::{
    Answering, Server, call, connect, eventually, failure_within, n_hanging, next, serve, until,
};
use bytes::Bytes;
use futures::StreamExt;
use planes::messaging::N_BODY_BYTES_MAX;
use planes::{Address, Call, Messaging};
use std::sync::Arc;
use std::time::{Duration, Instant};
use types::ErrorKind;

/// Time in which a peer that has died must have been given up.
const GIVEN_UP_MAX: Duration = Duration::from_millis(2500);

#[tokio::test(flavor = "multi_thread")]
async fn a_callee_that_is_killed_is_lost() {
    let server = Server::start(&[]);
    let child = Process::start("serve", &server);
    let messaging = connect(&server).await;
    let mut replies = call(&messaging, THERE, "hang");
    next(&mut replies).await.unwrap();
    child.signal("-KILL");
    let failure = failure_within(&mut replies, GIVEN_UP_MAX).await;
    assert_eq!(failure.kind, ErrorKind::PeerLost);
    let refused = failure_within(&mut call(&messaging, THERE, "x"), GIVEN_UP_MAX).await;
    assert_eq!(refused.kind, ErrorKind::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_is_killed_leaves_no_handler() {
    let server = Server::start(&[]);
    let messaging = connect(&server).await;
    let _served = serve(&messaging, HERE).await;
    let child = Process::start("call", &server);
    assert_eq!(n_hanging(), 1);
    child.signal("-KILL");
    let killed = Instant::now();
    until("the handler is dropped", || n_hanging() == 0).await;
    assert!(killed.elapsed() <= GIVEN_UP_MAX, "{:?}", killed.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callee_that_stood_still_starts_anew() {
    let server = Server::start(&[]);
    let child = Process::start("serve", &server);
    let messaging = connect(&server).await;
    let mut replies = call(&messaging, THERE, "hang");
    next(&mut replies).await.unwrap();
    eventually(&messaging, THERE, "hanging", "1").await;
    child.signal("-STOP");
    let failure = failure_within(&mut replies, GIVEN_UP_MAX).await;
    assert_eq!(failure.kind, ErrorKind::PeerLost);
    // One that comes meanwhile ends as well, long before its deadline.
    let meanwhile = failure_within(&mut call(&messaging, THERE, "hang"), GIVEN_UP_MAX).await;
    assert_eq!(meanwhile.kind, ErrorKind::PeerLost);
    child.signal("-CONT");
    let resumed = Instant::now();
    eventually(&messaging, THERE, "hanging", "0").await;
    assert!(resumed.elapsed() < GIVEN_UP_MAX, "{:?}", resumed.elapsed());
    let replies = call(&messaging, THERE, "count 500").collect::<Vec<_>>().await;
    assert_eq!(replies.iter().filter(|reply| reply.is_ok()).count(), 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_stood_still_has_no_calls() {
    let server = Server::start(&[]);
    let messaging = connect(&server).await;
    let _served = serve(&messaging, HERE).await;
    let child = Process::start("call", &server);
    child.signal("-STOP");
    let stopped = Instant::now();
    until("the handler is dropped", || n_hanging() == 0).await;
    assert!(stopped.elapsed() <= GIVEN_UP_MAX, "{:?}", stopped.elapsed());
    child.signal("-CONT");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_ends_takes_its_calls_along() {
    let server = Server::start(&[]);
    let (callee, caller) = (connect(&server).await, connect(&server).await);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let serving = Arc::clone(&callee);
    let served = runtime.spawn(async move { serve(&serving, HERE).await }).await.unwrap();
    let mut replies = call(&caller, HERE, "hang");
    next(&mut replies).await.unwrap();
    runtime.shutdown_background();
    let failure = failure_within(&mut replies, GIVEN_UP_MAX).await;
    assert_eq!(failure.kind, ErrorKind::PeerLost);
    drop(served);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plane_that_is_dropped_says_goodbye() {
    let server = Server::start(&[]);
    let (callee, caller) = (connect(&server).await, connect(&server).await);
    let served = serve(&callee, HERE).await;
    let mut replies = call(&caller, HERE, "hang");
    next(&mut replies).await.unwrap();
    drop((served, callee));
    let failure = failure_within(&mut replies, Duration::from_millis(500)).await;
    assert_eq!(failure.kind, ErrorKind::PeerLost);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_panics_ends_its_call_alone() {
    let server = Server::start(&[]);
    let (callee, caller) = (connect(&server).await, connect(&server).await);
    let handler = Answering(|call: Call| match &call.body[..] {
        b"panic" => panic!("as it was asked to"),
        _ => futures::stream::iter([Ok(call.body)]).boxed(),
    });
    let _served = callee.serve(&Address(HERE.into()), Arc::new(handler)).await.unwrap();
    let failure = failure_within(&mut call(&caller, HERE, "panic"), GIVEN_UP_MAX).await;
    assert_eq!(failure.kind, ErrorKind::PeerLost);
    assert_eq!(next(&mut call(&caller, HERE, "fine")).await, Ok(Bytes::from("fine")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_over_the_limit_ends_its_call_alone() {
    let server = Server::start(&[]);
    let (callee, caller) = (connect(&server).await, connect(&server).await);
    let handler = Answering(|call: Call| {
        let n_bytes = std::str::from_utf8(&call.body).unwrap().parse().unwrap();
        futures::stream::iter([Ok(vec![b'x'; n_bytes].into())]).boxed()
    });
    let _served = callee.serve(&Address(HERE.into()), Arc::new(handler)).await.unwrap();
    let n_bytes = N_BODY_BYTES_MAX;
    let largest = next(&mut call(&caller, HERE, n_bytes.to_string())).await.unwrap();
    assert_eq!(largest.len(), n_bytes);
    let larger = call(&caller, HERE, (n_bytes + 1).to_string());
    let failure = failure_within(&mut { larger }, GIVEN_UP_MAX).await;
    assert_eq!(failure.kind, ErrorKind::TooLarge);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_served_once() {
    let server = Server::start(&[]);
    let messaging = connect(&server).await;
    let _served = serve(&messaging, HERE).await;
    let handler = Arc::new(Answering(|_: Call| futures::stream::empty().boxed()));
    let second = messaging.serve(&Address(HERE.into()), handler).await;
    assert_eq!(second.err().map(|failure| failure.kind), Some(ErrorKind::Internal));
    assert_eq!(next(&mut call(&messaging, HERE, "first")).await, Ok(Bytes::from("first")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_runtime_holds_up_no_heartbeat() {
    let server = Server::start(&[]);
    let (callee, caller) = (connect(&server).await, connect(&server).await);
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let handler = Answering(|call: Call| {
                let works = move |_| {
                    std::thread::sleep(Duration::from_secs(3));
                    Ok(call.body.clone())
                };
                futures::stream::iter(0..1).map(works).boxed()
            });
            let served = callee.serve(&Address(HERE.into()), Arc::new(handler)).await.unwrap();
            ready.send(()).unwrap();
            let wait = tokio::task::spawn_blocking(move || stopped.recv());
            let _ = wait.await;
            drop(served);
        });
    });
    is_ready.await.unwrap();
    assert_eq!(next(&mut call(&caller, HERE, "after all")).await, Ok(Bytes::from("after all")));
    drop(stop);
    tokio::task::spawn_blocking(|| thread.join()).await.unwrap().unwrap();
}
