//! Frames that are lost, and frames that nobody should have sent: a peer that speaks the protocol
//! by hand.

use crate::support::{Server, call, connect, failure_within, n_hanging, next, serve, until};
use async_nats::{Client, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use std::time::{Duration, Instant};
use types::ErrorKind;

const HERE: &str = "test.losses";
/// Time in which a loss must have been noticed: two heartbeats and a margin.
const NOTICED_MAX: Duration = Duration::from_millis(1200);

/// The numbers of frames in a message.
const OPEN: u8 = 1;
const REPLY: u8 = 3;
const END: u8 = 5;
const CANCEL: u8 = 8;
const ROLL_OF_CALLER: u8 = 9;
const ROLL_OF_CALLEE: u8 = 10;

/// A process that is none: a bare connection that writes its frames by hand.
struct Forger {
    client: Client,
    epoch: u128,
    inbox: Subscriber,
}

/// What a message says: from whom, and the rest.
struct Heard {
    from: u128,
    frames: Bytes,
}

impl Forger {
    async fn new(server: &Server) -> Self {
        let client = async_nats::connect(server.url()).await.unwrap();
        let epoch = 0xf0f0;
        let inbox = client.subscribe(subject(epoch)).await.unwrap();
        client.flush().await.unwrap();
        Self { client, epoch, inbox }
    }

    /// Subscribes, and waits until a message has come back from the server, which knows by then.
    async fn serve(&mut self, address: &'static str) -> Subscriber {
        let calls = self.client.subscribe(address).await.unwrap();
        self.client.publish(subject(self.epoch), Bytes::new()).await.unwrap();
        self.inbox.next().await.unwrap();
        calls
    }

    async fn send(&self, to: impl Into<String>, frames: &[&[u8]]) {
        let mut message = vec![1];
        message.extend(self.epoch.to_be_bytes());
        frames.iter().for_each(|frame| message.extend(*frame));
        self.client.publish(to.into(), message.into()).await.unwrap();
        self.client.flush().await.unwrap();
    }

    /// The next message in the inbox that begins with one of these frames.
    async fn hear(&mut self, tags: &[u8]) -> Heard {
        loop {
            let heard = heard(&mut self.inbox).await;
            if tags.contains(&heard.frames[0]) {
                return heard;
            }
        }
    }
}

async fn heard(subscriber: &mut Subscriber) -> Heard {
    let wait = tokio::time::timeout(Duration::from_secs(5), subscriber.next());
    let message = wait.await.expect("it comes in time").expect("the subscription lives").payload;
    assert_eq!(message[0], 1);
    let from = u128::from_be_bytes(message[1..17].try_into().unwrap());
    Heard { from, frames: message.slice(17..) }
}

fn subject(epoch: u128) -> String {
    format!("_INBOX.triptych.{epoch:032x}.frames")
}

/// A call that a forger has got: who called, and the stream, whose number must be small.
async fn called(calls: &mut Subscriber) -> (u128, u8) {
    let Heard { from, frames } = heard(calls).await;
    assert_eq!(frames[0], OPEN);
    (from, frames[1])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_ends_the_stream() {
    let server = Server::start(&[]);
    let caller = connect(&server).await;
    let mut forger = Forger::new(&server).await;
    let mut calls = forger.serve(HERE).await;
    let mut replies = call(&caller, HERE, "x");
    let (from, stream) = called(&mut calls).await;
    let reply = |number: u8| [REPLY, stream, number, 1, 1, b'a' + number];
    forger.send(subject(from), &[&reply(0), &reply(1)]).await;
    assert_eq!(next(&mut replies).await, Ok(Bytes::from("a")));
    assert_eq!(next(&mut replies).await, Ok(Bytes::from("b")));
    forger.send(subject(from), &[&reply(3)]).await;
    let failure = failure_within(&mut replies, NOTICED_MAX).await;
    assert_eq!(failure.kind, ErrorKind::PeerLost);
    assert_eq!(&forger.hear(&[CANCEL]).await.frames[..], [CANCEL, stream]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_end_is_noticed() {
    let server = Server::start(&[]);
    let caller = connect(&server).await;
    let mut forger = Forger::new(&server).await;
    let mut calls = forger.serve(HERE).await;
    for roll in [
        // Nothing lives here any more.
        vec![ROLL_OF_CALLEE, 0, 255, 255, 255, 255, 15, 0],
        // The stream lives, and three frames of it were sent.
        vec![ROLL_OF_CALLEE, 0, 255, 255, 255, 255, 15, 1, 0, 3],
    ] {
        let mut replies = call(&caller, HERE, "x");
        let (from, stream) = called(&mut calls).await;
        forger.send(subject(from), &[&[REPLY, stream, 0, 1, 1, b'a']]).await;
        assert_eq!(next(&mut replies).await, Ok(Bytes::from("a")));
        let mut roll = roll;
        if roll[7] == 1 {
            roll[8] = stream;
        }
        forger.send(subject(from), &[&roll]).await;
        let failure = failure_within(&mut replies, NOTICED_MAX).await;
        assert_eq!(failure.kind, ErrorKind::PeerLost);
    }
    // A stream whose end arrives is over, whatever the roll says after it.
    let replies = call(&caller, HERE, "x");
    let (from, stream) = called(&mut calls).await;
    let roll = [ROLL_OF_CALLEE, 0, 255, 255, 255, 255, 15, 0];
    forger.send(subject(from), &[&[REPLY, stream, 0, 1, 1, b'a'], &[END, stream, 1], &roll]).await;
    let replies = tokio::time::timeout(NOTICED_MAX, replies.collect::<Vec<_>>()).await.unwrap();
    assert_eq!(replies, [Ok(Bytes::from("a"))]);
    assert!(forger.epoch != from);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_cancellation_is_made_good() {
    let server = Server::start(&[]);
    let callee = connect(&server).await;
    let _served = serve(&callee, HERE).await;
    let mut forger = Forger::new(&server).await;
    // The forger calls, and then knows nothing of it: its roll is empty up to a number.
    let open = [&[OPEN, 7, 100, 0, 4, 4][..], b"hang"].concat();
    forger.send(HERE, &[&open]).await;
    let Heard { from, .. } = forger.hear(&[REPLY]).await;
    assert_eq!(n_hanging(), 1);
    forger.send(subject(from), &[&[ROLL_OF_CALLER, 0, 6, 0]]).await;
    // That one was before the call; so the call lives, and is in the callee's next heartbeat.
    let roll = forger.hear(&[ROLL_OF_CALLEE]).await.frames;
    assert_eq!(roll[roll.len() - 3..], [1, 7, 1]);
    assert_eq!(n_hanging(), 1);
    let told = Instant::now();
    forger.send(subject(from), &[&[ROLL_OF_CALLER, 0, 7, 0]]).await;
    until("the handler is dropped", || n_hanging() == 0).await;
    assert!(told.elapsed() < Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_answers_a_roll_that_it_does_not_share() {
    let server = Server::start(&[]);
    let (callee, caller) = (connect(&server).await, connect(&server).await);
    let _served = serve(&callee, HERE).await;
    let mut forger = Forger::new(&server).await;
    // The forger learns who the caller is by being called.
    let mut calls = forger.serve("test.forger").await;
    let replies = call(&caller, "test.forger", "x");
    let (from, _) = called(&mut calls).await;
    drop(replies);
    forger.send(subject(from), &[&[ROLL_OF_CALLEE, 0, 99, 1, 42, 0]]).await;
    assert_eq!(&forger.hear(&[CANCEL]).await.frames[..], [CANCEL, 42]);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_of_a_stranger_does_no_harm() {
    let server = Server::start(&[]);
    let (callee, caller) = (connect(&server).await, connect(&server).await);
    let _served = serve(&callee, HERE).await;
    let mut forger = Forger::new(&server).await;
    let mut calls = forger.serve("test.forger").await;
    let _called = call(&caller, "test.forger", "x");
    let (from, _) = called(&mut calls).await;
    let running = call(&caller, HERE, "slow 20");
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for n_sent in 0..3000u32 {
        let mut bytes: Vec<u8> = (0..n_sent % 90)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        if n_sent % 2 == 0 {
            bytes.splice(0..0, [&[1][..], &forger.epoch.to_be_bytes()].concat());
        }
        let to = if n_sent % 3 == 0 { HERE.to_owned() } else { subject(from) };
        let reply = format!("_INBOX.triptych.{from:032x}.{n_sent}");
        let publish = forger.client.publish_with_reply(to, reply, bytes.into());
        publish.await.unwrap();
    }
    forger.client.flush().await.unwrap();
    let replies = tokio::time::timeout(Duration::from_secs(9), running.collect::<Vec<_>>()).await;
    assert_eq!(replies.unwrap().iter().filter(|reply| reply.is_ok()).count(), 20);
    assert_eq!(next(&mut call(&caller, HERE, "well")).await, Ok(Bytes::from("well")));
    assert!(callee.stats().n_messages_refused > 0 && caller.stats().n_messages_refused > 0);
}
