//! The laws that every implementation of the planes obeys, as functions to run against it.
//!
//! An implementation's test calls the macro of its plane once: [`discovery_laws!`],
//! [`messaging_laws!`] or [`transport_laws!`]. The suite knows no runtime: what it needs of one (a
//! way to sleep) is in [`Clock`].
//!
//! [`discovery_laws!`]: crate::discovery_laws
//! [`messaging_laws!`]: crate::messaging_laws
//! [`transport_laws!`]: crate::transport_laws

mod plot;
mod stress;
mod transport;

pub use stress::*;
pub use transport::*;

use crate::messaging::{N_BODY_BYTES_MAX, Replies};
use crate::{
    Address, Call, Discovery, Handler, Instance, MembershipEvent, Messaging, Transport, random,
    reply_stream,
};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, future};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use types::content::Digest;
use types::kv::KvLayout;
use types::stage::{Stage, Stages};
use types::{Error, ErrorKind};

/// An implementation of discovery under test, from both sides.
pub struct DiscoverySubject {
    /// Where instances register.
    pub near: Arc<dyn Discovery>,
    /// Where they are watched: another process's side, where there is one.
    pub far: Arc<dyn Discovery>,
    /// The runtime's clock.
    pub clock: Clock,
}

/// An implementation of messaging under test, from both sides.
pub struct MessagingSubject {
    /// The side that answers.
    pub callee: Arc<dyn Messaging>,
    /// The side that calls: another process's, where there is one.
    pub caller: Arc<dyn Messaging>,
    /// The runtime's clock.
    pub clock: Clock,
}

/// An implementation of transport under test, from both sides.
pub struct TransportSubject {
    /// The side that owns memory.
    pub owner: Arc<dyn Transport>,
    /// The side that reads: another process's, where there is one.
    pub reader: Arc<dyn Transport>,
    /// The runtime's clock.
    pub clock: Clock,
}

/// The runtime's way to sleep, which is all that the suite needs of one.
#[derive(Clone, Copy)]
pub struct Clock {
    /// Sleeps.
    pub sleep: fn(Duration) -> BoxFuture<'static, ()>,
}

/// Longest time that anything in the suite may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes one test of each law of discovery; `$subject` is an expression, in an `async` function,
/// that makes a fresh [`DiscoverySubject`].
#[macro_export]
macro_rules! discovery_laws {
    ($runtime:meta, $subject:expr) => {
        $crate::laws!($runtime, $subject,
            a_watch_starts_with_a_snapshot
            joining_and_leaving_are_seen
            every_field_of_an_instance_arrives
            instances_come_and_go_one_by_one
            a_snapshot_has_all_that_are_there
            every_watch_is_told_the_same
            a_dropped_watch_harms_no_other
            an_id_may_come_back
        );
    };
}

/// Makes one test of each law of messaging; `$subject` is an expression, in an `async` function,
/// that makes a fresh [`MessagingSubject`].
#[macro_export]
macro_rules! messaging_laws {
    ($runtime:meta, $subject:expr) => {
        $crate::laws!($runtime, $subject,
            replies_come_in_order
            an_error_is_the_last_reply
            nobody_there_is_unavailable
            withdrawing_ends_new_calls_only
            dropping_the_replies_cancels_the_handler
            a_late_first_reply_is_a_timeout
            a_slow_reader_slows_the_handler
            a_body_over_the_limit_is_refused
            calls_do_not_wait_for_each_other
            every_field_of_a_call_arrives
            bodies_of_every_size_arrive
            a_handler_may_answer_nothing
            an_address_may_be_served_again
            an_address_is_served_once_at_a_time
            a_reply_over_the_limit_is_an_error
            many_slow_readers_get_everything
        );
    };
}

/// Makes one test of each law of transport; `$subject` is an expression, in an `async` function,
/// that makes a fresh [`TransportSubject`].
#[macro_export]
macro_rules! transport_laws {
    ($runtime:meta, $subject:expr) => {
        $crate::laws!($runtime, $subject,
            a_read_brings_the_bytes
            a_forged_handle_brings_nothing
            a_released_lease_brings_nothing
            a_source_outside_brings_nothing
            a_dropped_read_keeps_its_destination
            several_sources_land_in_several_regions
            a_big_read_brings_every_byte
            a_hundred_reads_at_once
            a_lease_released_under_a_read_gives_right_bytes_or_none
            a_read_dropped_at_any_moment_writes_no_more
            a_read_needs_one_region_for_each_source
            a_read_of_too_many_sources_is_refused
            a_read_of_nothing_succeeds
            a_thousand_transfers_of_all_kinds
        );
    };
}

/// One test for each named law.
#[doc(hidden)]
#[macro_export]
macro_rules! laws {
    ($runtime:meta, $subject:expr, $($law:ident)*) => {$(
        #[$runtime]
        async fn $law() {
            $crate::conformance::$law($subject).await;
        }
    )*};
}

impl Clock {
    async fn eventually(&self, what: &str, is_true: impl Fn() -> bool) {
        let give_up = Instant::now() + PATIENCE;
        while !is_true() {
            assert!(Instant::now() < give_up, "it never happened that {what}");
            (self.sleep)(Duration::from_millis(2)).await;
        }
    }

    async fn within<T>(&self, what: &str, wait: impl Future<Output = T> + Send) -> T {
        let (wait, give_up) = (wait.boxed(), (self.sleep)(PATIENCE));
        match future::select(wait, give_up).await {
            future::Either::Left((value, _)) => value,
            future::Either::Right(_) => panic!("waited too long for {what}"),
        }
    }
}

// ------------------------------------------------------------------------------------ discovery

fn instance(name: &str) -> Instance {
    Instance {
        id: random::instance_id(),
        model: name.into(),
        card: Digest([7; 32]),
        stages: Stages::ALL,
        address: Address(format!("test.{name}")),
        transports: vec![format!("mem://{name}"), "tcp://[::1]:9".into()],
        kv: Some(KvLayout {
            block_size: 32,
            n_layers: 4,
            n_kv_heads: 2,
            head_dim: 64,
            dtype: "f32".into(),
        }),
        encode_endpoint: Some("test.encode".into()),
    }
}

async fn next_event(
    subject: &DiscoverySubject,
    watch: &mut futures::stream::BoxStream<'static, MembershipEvent>,
) -> MembershipEvent {
    subject.clock.within("a membership event", watch.next()).await.expect("a watch has no end")
}

/// Whoever registered before the watch is in its first event.
pub async fn a_watch_starts_with_a_snapshot(subject: DiscoverySubject) {
    let one = instance("one");
    let _lease = subject.near.register(one.clone()).await.unwrap();
    let mut watch = subject.far.watch();
    assert_eq!(next_event(&subject, &mut watch).await, MembershipEvent::Snapshot(vec![one]));
}

/// A watch tells of every instance that comes and goes, once.
pub async fn joining_and_leaving_are_seen(subject: DiscoverySubject) {
    let mut watch = subject.far.watch();
    assert_eq!(next_event(&subject, &mut watch).await, MembershipEvent::Snapshot(vec![]));
    let one = instance("one");
    let lease = subject.near.register(one.clone()).await.unwrap();
    assert_eq!(next_event(&subject, &mut watch).await, MembershipEvent::Joined(one.clone()));
    drop(lease);
    assert_eq!(next_event(&subject, &mut watch).await, MembershipEvent::Left(one.id));
}

/// What a watcher sees of an instance is what was registered, whatever is in its fields.
pub async fn every_field_of_an_instance_arrives(subject: DiscoverySubject) {
    let mut watch = subject.far.watch();
    assert_eq!(next_event(&subject, &mut watch).await, MembershipEvent::Snapshot(vec![]));
    let odd = Instance {
        model: "Qwen/\u{fc}ber \"7B\"\n".into(),
        card: Digest(std::array::from_fn(|i| i as u8)),
        stages: Stages::of(&[Stage::Encode, Stage::Prefill]),
        transports: Vec::new(),
        kv: None,
        encode_endpoint: None,
        ..instance("odd")
    };
    let _lease = subject.near.register(odd.clone()).await.unwrap();
    assert_eq!(next_event(&subject, &mut watch).await, MembershipEvent::Joined(odd));
}

/// Of several instances each is told in its turn, and those that stay are not told again.
pub async fn instances_come_and_go_one_by_one(subject: DiscoverySubject) {
    let mut watch = subject.far.watch();
    assert_eq!(next_event(&subject, &mut watch).await, MembershipEvent::Snapshot(vec![]));
    let (one, two) = (instance("one"), instance("two"));
    let first = subject.near.register(one.clone()).await.unwrap();
    let second = subject.near.register(two.clone()).await.unwrap();
    assert_eq!(next_event(&subject, &mut watch).await, MembershipEvent::Joined(one.clone()));
    assert_eq!(next_event(&subject, &mut watch).await, MembershipEvent::Joined(two.clone()));
    drop(first);
    assert_eq!(next_event(&subject, &mut watch).await, MembershipEvent::Left(one.id));
    drop(second);
    assert_eq!(next_event(&subject, &mut watch).await, MembershipEvent::Left(two.id));
}

/// The first event has everybody who is there, whichever side they registered on, and nobody who
/// has left.
pub async fn a_snapshot_has_all_that_are_there(subject: DiscoverySubject) {
    let mut early = subject.far.watch();
    assert_eq!(next_event(&subject, &mut early).await, MembershipEvent::Snapshot(vec![]));
    let (one, two, gone) = (instance("one"), instance("two"), instance("gone"));
    let _first = subject.near.register(one.clone()).await.unwrap();
    let _second = subject.far.register(two.clone()).await.unwrap();
    let last = gone.id;
    drop(subject.near.register(gone).await.unwrap());
    while next_event(&subject, &mut early).await != MembershipEvent::Left(last) {}
    let mut late = subject.far.watch();
    let MembershipEvent::Snapshot(mut found) = next_event(&subject, &mut late).await else {
        panic!("a watch starts with a snapshot");
    };
    let mut expected = vec![one, two];
    expected.sort_by_key(|instance| instance.id);
    found.sort_by_key(|instance| instance.id);
    assert_eq!(found, expected);
}

/// Watches do not share their events: each is told everything, on the side of the registration too.
pub async fn every_watch_is_told_the_same(subject: DiscoverySubject) {
    let mut watches = [subject.far.watch(), subject.far.watch(), subject.near.watch()];
    for watch in &mut watches {
        assert_eq!(next_event(&subject, watch).await, MembershipEvent::Snapshot(vec![]));
    }
    let one = instance("one");
    drop(subject.near.register(one.clone()).await.unwrap());
    for watch in &mut watches {
        assert_eq!(next_event(&subject, watch).await, MembershipEvent::Joined(one.clone()));
        assert_eq!(next_event(&subject, watch).await, MembershipEvent::Left(one.id));
    }
}

/// A reader that leaves takes nothing away from those that stay.
pub async fn a_dropped_watch_harms_no_other(subject: DiscoverySubject) {
    let (mut leaving, mut staying) = (subject.far.watch(), subject.far.watch());
    for watch in [&mut leaving, &mut staying] {
        assert_eq!(next_event(&subject, watch).await, MembershipEvent::Snapshot(vec![]));
    }
    drop(leaving);
    let one = instance("one");
    let _lease = subject.near.register(one.clone()).await.unwrap();
    assert_eq!(next_event(&subject, &mut staying).await, MembershipEvent::Joined(one));
}

/// An instance that has left may register again, and is then told like a new one.
pub async fn an_id_may_come_back(subject: DiscoverySubject) {
    let mut watch = subject.far.watch();
    assert_eq!(next_event(&subject, &mut watch).await, MembershipEvent::Snapshot(vec![]));
    let one = instance("one");
    for _ in 0..3 {
        let lease = subject.near.register(one.clone()).await.unwrap();
        assert_eq!(next_event(&subject, &mut watch).await, MembershipEvent::Joined(one.clone()));
        drop(lease);
        assert_eq!(next_event(&subject, &mut watch).await, MembershipEvent::Left(one.id));
    }
}

// ------------------------------------------------------------------------------------ messaging

/// What a test's handler does with a call.
type Answer = dyn Fn(Call) -> Replies + Send + Sync;

struct Answering(Box<Answer>);

impl Handler for Answering {
    fn handle(&self, call: Call) -> Replies {
        (self.0)(call)
    }
}

fn answering(answer: impl Fn(Call) -> Replies + Send + Sync + 'static) -> Arc<dyn Handler> {
    Arc::new(Answering(Box::new(answer)))
}

fn call(body: impl Into<Bytes>) -> Call {
    Call { deadline: Duration::from_secs(5), trace: "00-1-2-01".into(), body: body.into() }
}

fn here() -> Address {
    Address("test.handler".into())
}

/// A handler that counts up to the number in the call's body, one reply each.
fn counting() -> Arc<dyn Handler> {
    answering(|call| {
        let n_replies: u32 = std::str::from_utf8(&call.body).unwrap().parse().unwrap();
        futures::stream::iter((0..n_replies).map(|i| Ok(Bytes::from(i.to_string())))).boxed()
    })
}

/// Many replies arrive, each once, in the order they were sent.
pub async fn replies_come_in_order(subject: MessagingSubject) {
    let _served = subject.callee.serve(&here(), counting()).await.unwrap();
    let replies = subject.caller.call(&here(), call("1000")).collect::<Vec<_>>();
    let replies = subject.clock.within("a thousand replies", replies).await;
    let expected: Vec<_> = (0..1000).map(|i| Ok(Bytes::from(i.to_string()))).collect();
    assert_eq!(replies, expected);
}

/// A handler's error arrives whole, and nothing after it.
pub async fn an_error_is_the_last_reply(subject: MessagingSubject) {
    let failure = Error::new(ErrorKind::TooLarge, "too much").at("messages[3]");
    let sent = failure.clone();
    let handler = answering(move |_| {
        let replies = [Ok(Bytes::from("a")), Err(sent.clone()), Ok(Bytes::from("never"))];
        futures::stream::iter(replies).boxed()
    });
    let _served = subject.callee.serve(&here(), handler).await.unwrap();
    let replies = subject.caller.call(&here(), call("")).collect::<Vec<_>>();
    let replies = subject.clock.within("an error", replies).await;
    assert_eq!(replies, vec![Ok(Bytes::from("a")), Err(failure)]);
}

/// A call to an address that nobody serves fails at once.
pub async fn nobody_there_is_unavailable(subject: MessagingSubject) {
    let mut replies = subject.caller.call(&here(), call(""));
    let reply = subject.clock.within("a refusal", replies.next()).await.expect("an item");
    assert_eq!(reply.unwrap_err().kind, ErrorKind::Unavailable);
}

/// Withdrawing an address leaves the calls in progress alone.
pub async fn withdrawing_ends_new_calls_only(subject: MessagingSubject) {
    let served = subject.callee.serve(&here(), counting()).await.unwrap();
    let mut running = subject.caller.call(&here(), call("500"));
    assert!(subject.clock.within("the first reply", running.next()).await.unwrap().is_ok());
    drop(served);
    let mut refused = subject.caller.call(&here(), call("1"));
    let reply = subject.clock.within("a refusal", refused.next()).await.expect("an item");
    assert_eq!(reply.unwrap_err().kind, ErrorKind::Unavailable);
    let rest = subject.clock.within("the rest", running.collect::<Vec<_>>()).await;
    assert_eq!(rest.iter().filter(|reply| reply.is_ok()).count(), 499);
}

/// Whoever drops the replies stops the handler, even one that waits for ever.
pub async fn dropping_the_replies_cancels_the_handler(subject: MessagingSubject) {
    let running = Arc::new(());
    let seen = Arc::downgrade(&running);
    let held = std::sync::Mutex::new(Some(running));
    let handler = answering(move |_| {
        let mine = held.lock().unwrap().take();
        reply_stream(move |mut replies| async move {
            replies.send(Bytes::from("begun")).await?;
            future::pending::<()>().await;
            drop(mine);
            Ok(())
        })
    });
    let _served = subject.callee.serve(&here(), handler).await.unwrap();
    let mut replies = subject.caller.call(&here(), call(""));
    assert!(subject.clock.within("the first reply", replies.next()).await.unwrap().is_ok());
    assert_eq!(seen.strong_count(), 1);
    drop(replies);
    subject.clock.eventually("the handler is dropped", || seen.strong_count() == 0).await;
}

/// A handler that gives no first reply in time is given up, and cancelled.
pub async fn a_late_first_reply_is_a_timeout(subject: MessagingSubject) {
    let handler = answering(|_| future::pending().into_stream().boxed());
    let _served = subject.callee.serve(&here(), handler).await.unwrap();
    let hurried = Call { deadline: Duration::from_millis(50), ..call("") };
    let mut replies = subject.caller.call(&here(), hurried);
    let reply = subject.clock.within("a timeout", replies.next()).await.expect("an item");
    assert_eq!(reply.unwrap_err().kind, ErrorKind::Timeout);
    assert!(replies.next().await.is_none());
}

/// A handler is never more than the credits (and what its own stream holds) ahead of its reader.
pub async fn a_slow_reader_slows_the_handler(subject: MessagingSubject) {
    let n_made = Arc::new(AtomicUsize::new(0));
    let made = Arc::clone(&n_made);
    let handler = answering(move |_| {
        let made = Arc::clone(&made);
        let reply = move |_| {
            made.fetch_add(1, Ordering::Relaxed);
            Ok(Bytes::from_static(&[0; 64]))
        };
        futures::stream::iter(0..100_000).map(reply).boxed()
    });
    let _served = subject.callee.serve(&here(), handler).await.unwrap();
    let mut replies = subject.caller.call(&here(), call(""));
    assert!(subject.clock.within("the first reply", replies.next()).await.unwrap().is_ok());
    (subject.clock.sleep)(Duration::from_millis(100)).await;
    let n_ahead = n_made.load(Ordering::Relaxed);
    assert!(n_ahead <= 2 * crate::messaging::CREDITS, "{n_ahead} replies unread");
}

/// Whoever comes second to an address is refused, and the first goes on answering.
pub async fn an_address_is_served_once_at_a_time(subject: MessagingSubject) {
    let _served = subject.callee.serve(&here(), counting()).await.unwrap();
    let second = answering(|_| futures::stream::empty().boxed());
    assert!(subject.callee.serve(&here(), second).await.is_err());
    let mut replies = subject.caller.call(&here(), call("1"));
    let reply = subject.clock.within("a reply", replies.next()).await.expect("an item");
    assert_eq!(reply.unwrap(), "0");
}

/// A handler's reply over the limit ends its call with an error.
pub async fn a_reply_over_the_limit_is_an_error(subject: MessagingSubject) {
    let too_large = || Ok(Bytes::from(vec![0; N_BODY_BYTES_MAX + 1]));
    let handler = answering(move |_| futures::stream::iter([too_large()]).boxed());
    let _served = subject.callee.serve(&here(), handler).await.unwrap();
    let mut replies = subject.caller.call(&here(), call(""));
    let reply = subject.clock.within("an error", replies.next()).await.expect("an item");
    assert!(reply.is_err());
}

/// Too large a body is refused before it is sent.
pub async fn a_body_over_the_limit_is_refused(subject: MessagingSubject) {
    let _served = subject.callee.serve(&here(), counting()).await.unwrap();
    let mut replies = subject.caller.call(&here(), call(vec![b'1'; N_BODY_BYTES_MAX + 1]));
    let reply = subject.clock.within("a refusal", replies.next()).await.expect("an item");
    assert_eq!(reply.unwrap_err().kind, ErrorKind::TooLarge);
}

/// A call that gets no answer holds up no other.
pub async fn calls_do_not_wait_for_each_other(subject: MessagingSubject) {
    let handler = answering(|call| match &call.body[..] {
        b"stuck" => future::pending().into_stream().boxed(),
        _ => futures::stream::iter([Ok(call.body)]).boxed(),
    });
    let _served = subject.callee.serve(&here(), handler).await.unwrap();
    let _stuck: Vec<Replies> =
        (0..100).map(|_| subject.caller.call(&here(), call("stuck"))).collect();
    for i in 0..100 {
        let mut replies = subject.caller.call(&here(), call(i.to_string()));
        let reply = subject.clock.within("an echo", replies.next()).await.expect("an item");
        assert_eq!(reply.unwrap(), i.to_string());
    }
}

/// What a handler is given is what the caller gave.
pub async fn every_field_of_a_call_arrives(subject: MessagingSubject) {
    let seen = Arc::new(std::sync::Mutex::new(None));
    let sees = Arc::clone(&seen);
    let handler = answering(move |call| {
        *sees.lock().unwrap() = Some(call);
        futures::stream::iter([Ok(Bytes::new())]).boxed()
    });
    let _served = subject.callee.serve(&here(), handler).await.unwrap();
    let sent = Call { deadline: Duration::from_millis(7654), ..call("\0\r\n\u{fc}") };
    let mut replies = subject.caller.call(&here(), sent.clone());
    assert_eq!(subject.clock.within("a reply", replies.next()).await, Some(Ok(Bytes::new())));
    assert_eq!(seen.lock().unwrap().take(), Some(sent));
}

/// Bodies arrive whole both ways, from none to the largest.
pub async fn bodies_of_every_size_arrive(subject: MessagingSubject) {
    let echo = answering(|call| futures::stream::iter([Ok(call.body)]).boxed());
    let _served = subject.callee.serve(&here(), echo).await.unwrap();
    for n_bytes in [0, 1, 127, 128, 4095, 4096, 4097, 65_536, N_BODY_BYTES_MAX] {
        let body: Bytes = (0..n_bytes).map(|i| (i * 31 + i / 251) as u8).collect();
        let replies = subject.caller.call(&here(), call(body.clone())).collect::<Vec<_>>();
        let replies = subject.clock.within("an echo", replies).await;
        assert!(replies == [Ok(body)], "a body of {n_bytes} bytes came back otherwise");
    }
}

/// A handler that ends without a reply ends the call without an error.
pub async fn a_handler_may_answer_nothing(subject: MessagingSubject) {
    let handler = answering(|_| futures::stream::empty().boxed());
    let _served = subject.callee.serve(&here(), handler).await.unwrap();
    let mut replies = subject.caller.call(&here(), call(""));
    assert_eq!(subject.clock.within("the end", replies.next()).await, None);
}

/// Whoever withdraws an address may serve it again, and is called once for each call.
pub async fn an_address_may_be_served_again(subject: MessagingSubject) {
    let n_called = Arc::new(AtomicUsize::new(0));
    for n_served in 1..=3 {
        let called = Arc::clone(&n_called);
        let handler = answering(move |_| {
            called.fetch_add(1, Ordering::Relaxed);
            futures::stream::iter([Ok(Bytes::from("here"))]).boxed()
        });
        let _served = subject.callee.serve(&here(), handler).await.unwrap();
        let replies = subject.caller.call(&here(), call("")).collect::<Vec<_>>();
        let replies = subject.clock.within("a reply", replies).await;
        assert_eq!(replies, [Ok(Bytes::from("here"))]);
        assert_eq!(n_called.load(Ordering::Relaxed), n_served);
    }
}

/// Two hundred readers that take turns, one reply each, get every reply of their own call.
pub async fn many_slow_readers_get_everything(subject: MessagingSubject) {
    const N_CALLS: usize = 200;
    const N_REPLIES: usize = 150;
    let handler = answering(|call| {
        let reply = move |i: usize| Ok([&call.body[..], i.to_string().as_bytes()].concat().into());
        futures::stream::iter((0..N_REPLIES).map(reply)).boxed()
    });
    let _served = subject.callee.serve(&here(), handler).await.unwrap();
    let mut calls: Vec<Replies> =
        (0..N_CALLS).map(|i| subject.caller.call(&here(), call(format!("{i}:")))).collect();
    for n_read in 0..N_REPLIES {
        for (i, replies) in calls.iter_mut().enumerate() {
            let reply = subject.clock.within("a reply", replies.next()).await.expect("a reply");
            assert_eq!(reply.unwrap(), format!("{i}:{n_read}"));
        }
    }
    for replies in &mut calls {
        assert_eq!(subject.clock.within("the end", replies.next()).await, None);
    }
}
