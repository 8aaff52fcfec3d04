//! Another process: this test program again, which serves or calls until its input ends.

use crate::support::{self, Answering, Server, send_signal};
use futures::StreamExt;
use messaging_nats::{NatsConfig, NatsMessaging};
use planes::{Address, Messaging};
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::Arc;

const ROLE: &str = "NATS_TEST_ROLE";
const URL: &str = "NATS_TEST_URL";
/// What a child says when it is ready.
const READY: &str = "the child is ready";

/// Where children serve.
pub(crate) const THERE: &str = "test.child";
/// Where a child answers at a pace, and as a plain NATS service.
pub(crate) const STEPS: &str = "test.steps";
pub(crate) const PLAIN: &str = "test.plain";
/// Where children call.
pub(crate) const HERE: &str = "test.parent";

/// A child process, killed when dropped.
pub(crate) struct Process(std::process::Child);

impl Process {
    /// Starts a child in a role, and waits until it is ready.
    pub(crate) fn start(role: &str, server: &Server) -> Self {
        let program = std::env::current_exe().expect("this program has a path");
        let mut child = Command::new(program)
            .args(["--exact", "child::another_process", "--nocapture"])
            .env(ROLE, role)
            .env(URL, server.url())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child can be started");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut lines = output.lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains(READY)), "the child has ended too early");
        // Reading on keeps the child from blocking, should it say more.
        std::thread::spawn(move || lines.for_each(drop));
        Self(child)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn signal(&self, signal: &str) {
        send_signal(self.pid(), signal);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Not a test by itself, but what a child process does: without a role it has nothing to do.
#[tokio::test(flavor = "multi_thread")]
async fn another_process() {
    let (Ok(role), Ok(url)) = (std::env::var(ROLE), std::env::var(URL)) else { return };
    let config = NatsConfig::new(vec![url.clone()], role.clone());
    let messaging = messaging_nats::connect(config).await.expect("the server is there");
    let kept = match role.as_str() {
        "serve" => serve(&messaging, &url).await,
        "call" => hold_a_call(&messaging).await,
        other => panic!("there is no role {other}"),
    };
    println!("\n{READY}");
    let input_ends = || std::io::stdin().read_to_end(&mut Vec::new());
    let _ = tokio::task::spawn_blocking(input_ends).await;
    drop(kept);
}

async fn serve(messaging: &Arc<NatsMessaging>, url: &str) -> Box<dyn Send> {
    let client = async_nats::connect(url).await.expect("the server is there");
    let mut requests = client.subscribe(PLAIN).await.expect("a subscription");
    // Once a message has come back, the server knows the subscription.
    client.publish(PLAIN, "".into()).await.expect("it can be sent");
    requests.next().await.expect("it comes back");
    let plain = tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let reply = request.reply.expect("a request");
            client.publish(reply, request.payload).await.expect("it can be sent");
        }
    });
    let steps = Arc::new(Answering(crate::load::in_steps));
    let steps = messaging.serve(&Address(STEPS.into()), steps).await.expect("served");
    let served = support::serve(messaging, THERE).await;
    Box::new((served, steps, plain))
}

async fn hold_a_call(messaging: &NatsMessaging) -> Box<dyn Send> {
    let mut replies = support::call(messaging, HERE, "hang");
    support::next(&mut replies).await.expect("the parent answers");
    Box::new(replies)
}
