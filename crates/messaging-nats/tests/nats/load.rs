//! Many calls: that nothing is kept of them, and what they cost.

use crate::child::{PLAIN, Process, STEPS, THERE};
use crate::support::{Server, call, connect, next, serve};
use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use messaging_nats::NatsMessaging;
use planes::{Call, Replies};
use std::time::{Duration, Instant};

/// Calls under way at once.
const N_CONCURRENT: usize = 64;
/// Replies of one call: that it was admitted, and four tokens.
const N_REPLIES: usize = 5;
/// Makes the measurement long enough for its figures to mean something.
const MEASURE: &str = "NATS_MEASURE";
/// The kernel's clock ticks are hundredths of a second.
const TICK: Duration = Duration::from_millis(10);
/// Time between two tokens of a call that is answered in steps.
const STEP: Duration = Duration::from_millis(2);

/// A handler that admits a call at once and then gives a token with each step, as many replies as
/// the body says.
pub(crate) fn in_steps(call: Call) -> Replies {
    let n_replies = std::str::from_utf8(&call.body).ok().and_then(|n| n.parse().ok());
    let tokens = futures::stream::iter(1..n_replies.unwrap_or(N_REPLIES)).then(|i| async move {
        tokio::time::sleep(STEP).await;
        Ok(Bytes::from(format!("token {i}")))
    });
    futures::stream::iter([Ok(Bytes::from("admitted"))]).chain(tokens).boxed()
}

/// Makes `n_calls` calls, some at once, and counts their replies.
async fn many(messaging: &NatsMessaging, address: &str, body: &'static str, n_calls: usize) {
    let mut running = FuturesUnordered::new();
    let n_replies: usize = body.rsplit(' ').next().and_then(|n| n.parse().ok()).expect("a number");
    let check = |replies: Vec<types::Result<Bytes>>| {
        assert_eq!(replies.len(), n_replies);
        let failure = replies.into_iter().find_map(types::Result::err);
        assert_eq!(failure, None);
    };
    let one = || call(messaging, address, body).collect::<Vec<_>>().boxed();
    for n_begun in 0..n_calls {
        if n_begun >= N_CONCURRENT {
            check(running.next().await.expect("calls are under way"));
        }
        running.push(one());
    }
    while let Some(replies) = running.next().await {
        check(replies);
    }
}

/// Memory of this process, in bytes.
fn n_resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_calls_leave_nothing_behind() {
    let server = Server::start(&[]);
    let (callee, caller) = (connect(&server).await, connect(&server).await);
    let _served = serve(&callee, "test.load").await;
    many(&caller, "test.load", "count 5", 20_000).await;
    let n_before = n_resident_bytes();
    many(&caller, "test.load", "count 5", 80_000).await;
    let n_grown = n_resident_bytes().saturating_sub(n_before);
    assert!(n_grown < 4 << 20, "{n_grown} bytes more after 80,000 calls");
    let stats = caller.stats();
    assert!(stats.n_messages_sent < stats.n_frames_sent, "calls share messages: {stats:?}");
}

/// Time that a process has computed.
fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let n_ticks: u32 = fields[11..13].iter().map(|ticks| ticks.parse::<u32>().unwrap()).sum();
    n_ticks * TICK
}

/// Processor time of the caller, the callee and the server.
struct Cost([u32; 3]);

impl Cost {
    fn now(&self) -> [Duration; 3] {
        self.0.map(cpu)
    }
}

/// Runs something and prints its rate and what each call cost.
async fn measure(name: &str, cost: &Cost, n_calls: usize, run: impl Future<Output = ()>) {
    let (before, begun) = (cost.now(), Instant::now());
    run.await;
    let rate = n_calls as f64 / begun.elapsed().as_secs_f64();
    let [caller, callee, server] =
        std::array::from_fn(|i| (cost.now()[i] - before[i]).as_secs_f64() * 1e6 / n_calls as f64);
    println!(
        "{name}: {rate:.0} calls/s; µs of processor a call: caller {caller:.1}, \
         callee {callee:.1}, server {server:.1}"
    );
}

/// The median of `n` waits, in µs.
async fn median<F: Future<Output = ()>>(n: usize, mut wait: impl FnMut() -> F) -> f64 {
    let mut waits = Vec::new();
    for _ in 0..n {
        let begun = Instant::now();
        wait().await;
        waits.push(begun.elapsed());
    }
    waits.sort_unstable();
    waits[n / 2].as_secs_f64() * 1e6
}

/// Measures calls that are answered in steps, and how much their frames share.
async fn in_shared_messages(
    messaging: &NatsMessaging,
    cost: &Cost,
    n_replies: &'static str,
    n_calls: usize,
) {
    let before = messaging.stats();
    let name = format!("{n_replies} replies in steps");
    measure(&name, cost, n_calls, many(messaging, STEPS, n_replies, n_calls)).await;
    let after = messaging.stats();
    let n_frames = after.n_frames_received - before.n_frames_received;
    let n_messages = after.n_messages_received - before.n_messages_received;
    println!("  {:.1} frames in a message", n_frames as f64 / n_messages as f64);
}

/// Prints what a call costs, beside a plain request of NATS's own. As a test it is short; with
/// `NATS_MEASURE` set it takes long enough for the figures to mean something.
#[tokio::test(flavor = "multi_thread")]
async fn throughput() {
    let n_calls = if std::env::var_os(MEASURE).is_some() { 100_000 } else { 2000 };
    let server = Server::start(&[]);
    let child = Process::start("serve", &server);
    let messaging = connect(&server).await;
    let client = async_nats::connect(server.url()).await.unwrap();
    let cost = Cost([std::process::id(), child.pid(), server.pid()]);
    many(&messaging, THERE, "count 5", n_calls / 10).await;

    let calls = many(&messaging, THERE, "count 5", n_calls);
    measure("answered at once", &cost, n_calls, calls).await;
    in_shared_messages(&messaging, &cost, "5", n_calls).await;
    in_shared_messages(&messaging, &cost, "33", n_calls / 4).await;

    let plain = async || {
        let reply = client.request(PLAIN, "ping".into()).await.unwrap();
        assert_eq!(reply.payload, "ping");
    };
    let requests = futures::stream::iter(0..n_calls).map(|_| plain());
    let requests = requests.buffer_unordered(N_CONCURRENT).for_each(|()| async {});
    measure("plain requests of NATS", &cost, n_calls, requests).await;

    let n_alone = n_calls / 50;
    let own = median(n_alone, async || {
        assert_eq!(next(&mut call(&messaging, THERE, "ping")).await, Ok(Bytes::from("ping")));
    });
    let own = own.await;
    let plain = median(n_alone, plain).await;
    println!("one at a time: {own:.0} µs (median), plain request {plain:.0} µs");
}
