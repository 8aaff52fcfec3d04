//! The laws that every implementation of the planes obeys, as functions to run against it.
//!
//! An implementation's test calls the macro of its plane once: [`discovery_laws!`],
//! [`messaging_laws!`] or [`transport_laws!`]. The suite knows no runtime: what it needs of one (a
//! way to sleep) is in [`Clock`].
//!
//! [`discovery_laws!`]: crate::discovery_laws
//! [`messaging_laws!`]: crate::messaging_laws
//! [`transport_laws!`]: crate::transport_laws

use crate::messaging::{N_BODY_BYTES_MAX, Replies};
use crate::{
    Address, Call, Destination, Discovery, Handler, Instance, LeaseTable, LeasedMemory,
    MembershipEvent, Messaging, Region, RemoteHandle, Source, Transport, random, reply_stream,
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
use types::{Error, ErrorKind, Secret};

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
        ..instance("odd")
    };
    let _lease = subject.near.register(odd.clone()).await.unwrap();
    assert_eq!(next_event(&subject, &mut watch).await, MembershipEvent::Joined(odd));
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

// ------------------------------------------------------------------------------------ transport

/// Two regions of 100 kB under a lease, and the handle to them.
struct Lent {
    table: Arc<LeaseTable>,
    handle: RemoteHandle,
    _served: crate::Withdraw,
}

const N_LENT: usize = 100_000;

fn lent_byte(region_idx: usize, offset: usize) -> u8 {
    (offset * 31 + region_idx * 7 + offset / 257) as u8
}

async fn lend(subject: &TransportSubject) -> Lent {
    let table = Arc::new(LeaseTable::default());
    let (transports, served) = subject.owner.serve(Arc::clone(&table)).await.unwrap();
    let mut memory: Vec<Vec<u8>> =
        (0..2).map(|region| (0..N_LENT).map(|i| lent_byte(region, i)).collect()).collect();
    // SAFETY: the vectors are moved beside the regions and never touched again.
    let region = |bytes: &mut Vec<u8>| unsafe { Region::new(bytes.as_mut_ptr(), bytes.len()) };
    let regions = memory.iter_mut().map(region).collect();
    let leased = LeasedMemory { regions, keep: Box::new(memory) };
    let (lease, secret) = table.grant(leased, Instant::now() + PATIENCE).unwrap();
    let handle = RemoteHandle { owner: here(), transports, lease, secret };
    Lent { table, handle, _served: served }
}

fn landing(n_bytes: usize) -> Destination {
    let mut memory = vec![0xAA_u8; n_bytes];
    // SAFETY: the vector is moved beside the region and never touched until it comes back.
    let region = unsafe { Region::new(memory.as_mut_ptr(), n_bytes) };
    Destination { regions: vec![region], keep: Box::new(memory) }
}

fn landed(destination: Destination) -> Vec<u8> {
    *destination.keep.downcast().expect("the vector that was handed over")
}

async fn read(
    subject: &TransportSubject,
    handle: RemoteHandle,
    source: Source,
    n_bytes: usize,
) -> types::Result<Vec<u8>> {
    let read = subject.reader.read(handle, vec![source], landing(n_bytes));
    subject.clock.within("a read", read).await.map(landed)
}

/// The bytes that arrive are those of the source, wherever it lies in the lease.
pub async fn a_read_brings_the_bytes(subject: TransportSubject) {
    let lent = lend(&subject).await;
    let places = [(0, 0, N_LENT), (1, 0, N_LENT), (1, 17, 1000), (0, N_LENT - 1, 1), (0, 5, 0)];
    for (region_idx, offset, n_bytes) in places {
        let source = Source { region_idx, offset };
        let bytes = read(&subject, lent.handle.clone(), source, n_bytes).await.unwrap();
        let expected: Vec<u8> =
            (offset..offset + n_bytes).map(|i| lent_byte(region_idx, i)).collect();
        assert!(bytes == expected, "{region_idx} {offset} {n_bytes}");
    }
}

async fn refused(subject: &TransportSubject, handle: RemoteHandle, source: Source) {
    let failure = read(subject, handle, source, 100).await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::NotFound, "{failure}");
}

const START: Source = Source { region_idx: 0, offset: 0 };

/// A guessed secret opens nothing.
pub async fn a_forged_handle_brings_nothing(subject: TransportSubject) {
    let lent = lend(&subject).await;
    let secret = Secret(lent.handle.secret.0.wrapping_add(1));
    refused(&subject, RemoteHandle { secret, ..lent.handle.clone() }, START).await;
}

/// A lease that has ended opens nothing.
pub async fn a_released_lease_brings_nothing(subject: TransportSubject) {
    let lent = lend(&subject).await;
    lent.table.release(lent.handle.lease, lent.handle.secret);
    refused(&subject, lent.handle.clone(), START).await;
}

/// A source that leaves the lease by one byte is refused.
pub async fn a_source_outside_brings_nothing(subject: TransportSubject) {
    let lent = lend(&subject).await;
    let outside = Source { region_idx: 0, offset: N_LENT - 99 };
    refused(&subject, lent.handle.clone(), outside).await;
    refused(&subject, lent.handle.clone(), Source { region_idx: 2, offset: 0 }).await;
}

/// A read that nobody waits for any more lets go of its destination when it has ended.
pub async fn a_dropped_read_keeps_its_destination(subject: TransportSubject) {
    let lent = lend(&subject).await;
    let kept = Arc::new(());
    let watched = Arc::downgrade(&kept);
    let Destination { regions, keep } = landing(1000);
    let destination = Destination { regions, keep: Box::new((keep, kept)) };
    drop(subject.reader.read(lent.handle.clone(), vec![START], destination));
    subject.clock.eventually("the destination is released", || watched.strong_count() == 0).await;
    lent.table.release(lent.handle.lease, lent.handle.secret);
    assert_eq!(lent.table.n_leases(), 0);
}
