//! Servers, processes and calls for the tests.

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use messaging_nats::{NatsConfig, NatsMessaging};
use planes::conformance::Clock;
use planes::{Address, Call, Handler, Messaging, Replies};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use types::{Error, Result};

pub(crate) const CLOCK: Clock = Clock { sleep: |duration| tokio::time::sleep(duration).boxed() };

/// Longest wait for anything that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A NATS server on a port of its own, stopped when dropped.
pub(crate) struct Server {
    pub(crate) port: u16,
    args: Vec<String>,
    process: Option<Child>,
}

/// A port that nobody listens on.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it has an address").port()
}

impl Server {
    pub(crate) fn start(args: &[&str]) -> Self {
        let mut server = Self::not_started(args);
        server.restart();
        server
    }

    pub(crate) fn not_started(args: &[&str]) -> Self {
        let args = args.iter().map(|arg| arg.to_string()).collect();
        Self { port: free_port(), args, process: None }
    }

    /// Starts the server, again on the same port, and waits until it listens.
    pub(crate) fn restart(&mut self) {
        let mut command = Command::new("nats-server");
        command.args(["-a", "127.0.0.1", "-p", &self.port.to_string()]).args(&self.args);
        match command.stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
            Ok(process) => self.process = Some(process),
            Err(_) if std::env::var_os("CI").is_some() => {
                panic!("these tests need `nats-server`: install the package of that name")
            }
            Err(_) => {
                eprintln!("skipped: `nats-server` is not installed");
                std::process::exit(0);
            }
        }
        let give_up = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(Instant::now() < give_up, "the server does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    pub(crate) fn signal(&self, signal: &str) {
        send_signal(self.pid(), signal);
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().expect("the server runs").id()
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub(crate) fn config(&self) -> NatsConfig {
        NatsConfig::new(vec![self.url()], "test")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) fn send_signal(pid: u32, signal: &str) {
    // Every shell can; a program of that name is not everywhere.
    let sent = Command::new("sh").args(["-c", &format!("kill {signal} {pid}")]).status();
    assert!(sent.expect("there is a shell").success());
}

pub(crate) async fn connect(server: &Server) -> Arc<NatsMessaging> {
    messaging_nats::connect(server.config()).await.expect("the server is there")
}

/// A folder that is removed when dropped.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static N_MADE: AtomicU32 = AtomicU32::new(0);
        let n_made = N_MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("messaging-nats-{}-{n_made}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a folder can be made");
        Self(path)
    }

    /// Writes a file; its path.
    pub(crate) fn write(&self, name: &str, content: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, content).expect("a file can be written");
        path.to_str().expect("the path is text").into()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A handler made of a function.
pub(crate) struct Answering<F>(pub(crate) F);

impl<F: Fn(Call) -> Replies + Send + Sync> Handler for Answering<F> {
    fn handle(&self, call: Call) -> Replies {
        (self.0)(call)
    }
}

/// Serves the shared behaviour of [`answer`] at `address` for as long as the promise lives.
pub(crate) async fn serve(messaging: &NatsMessaging, address: &str) -> planes::Withdraw {
    let served = messaging.serve(&Address(address.into()), Arc::new(Answering(answer))).await;
    served.expect("the address can be served")
}

/// Handlers that run in this process and do not end by themselves.
pub(crate) fn n_hanging() -> usize {
    Arc::strong_count(&HANGING) - 1
}

static HANGING: std::sync::LazyLock<Arc<()>> = std::sync::LazyLock::new(|| Arc::new(()));

/// `hang`: one reply, then none for ever. `count N`: so many replies. `hanging`: how many hang.
/// `slow N`: so many replies, 50 ms apart. Anything else comes back.
pub(crate) fn answer(call: Call) -> Replies {
    let text = String::from_utf8_lossy(&call.body).into_owned();
    match text.split_once(' ').unwrap_or((&text, "")) {
        ("hang", _) => {
            let mine = Arc::clone(&HANGING);
            let first = futures::stream::iter([Ok(Bytes::from("begun"))]);
            first
                .chain(futures::stream::pending())
                .inspect(move |_| drop(Arc::clone(&mine)))
                .boxed()
        }
        ("hanging", _) => one(n_hanging().to_string()),
        ("count", n) => {
            let n: u32 = n.parse().expect("a number");
            futures::stream::iter((0..n).map(|i| Ok(i.to_string().into()))).boxed()
        }
        ("slow", n) => slow(n.parse().expect("a number")),
        _ => one(text),
    }
}

fn one(text: String) -> Replies {
    futures::stream::iter([Ok(text.into())]).boxed()
}

fn slow(n_replies: u32) -> BoxStream<'static, Result<Bytes>> {
    futures::stream::iter(0..n_replies)
        .then(|i| async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok(i.to_string().into())
        })
        .boxed()
}

/// Calls `address`; the deadline is longer than any test.
pub(crate) fn call(messaging: &NatsMessaging, address: &str, body: impl Into<Bytes>) -> Replies {
    let deadline = Duration::from_secs(60);
    let call = Call { deadline, trace: String::new(), body: body.into() };
    messaging.call(&Address(address.into()), call)
}

/// The next reply, which must come.
pub(crate) async fn next(replies: &mut Replies) -> Result<Bytes> {
    next_within(replies, PATIENCE).await
}

/// The next reply, which must come within `limit`.
pub(crate) async fn next_within(replies: &mut Replies, limit: Duration) -> Result<Bytes> {
    let next = tokio::time::timeout(limit, replies.next()).await;
    next.expect("it comes in time").expect("it is not the end")
}

/// The error that a call ends with, after any replies.
pub(crate) async fn failure_within(replies: &mut Replies, limit: Duration) -> Error {
    let wait = async {
        loop {
            match replies.next().await.expect("an error, not an end") {
                Ok(_) => {}
                Err(failure) => return failure,
            }
        }
    };
    tokio::time::timeout(limit, wait).await.expect("it fails in time")
}

/// Asks again and again until the answer is `expected`.
pub(crate) async fn eventually(
    messaging: &NatsMessaging,
    address: &str,
    body: &str,
    expected: &str,
) {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let answer = next(&mut call(messaging, address, body.to_owned())).await;
        if answer == Ok(Bytes::copy_from_slice(expected.as_bytes())) {
            return;
        }
        assert!(Instant::now() < give_up, "{body}: {answer:?} instead of {expected}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < give_up, "it never happened that {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
