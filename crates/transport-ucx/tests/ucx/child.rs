//! A second process: this test binary again, told by its environment what to be.

use crate::alone;
use crate::common::{destination, here, lend, start};
use futures::future::join_all;
use planes::{LeaseTable, RemoteHandle, Source};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use types::{LeaseId, Secret};

const ROLE: &str = "TRIPTYCH_TEST_CHILD";

/// What marks a line of ours among those of the test harness.
const MARK: &str = "@ ";

/// Bytes that a child lends.
pub(crate) const N_LENT: usize = 64 << 20;

/// Reads that a child has under way at a time.
const N_AT_ONCE: usize = 4;

/// A process that ends with this value, or before.
pub(crate) struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    /// What it said.
    pub(crate) word: String,
}

impl Process {
    /// Starts a child and waits for its first word.
    fn start(role: &str, told: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child::a_child", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        writeln!(stdin, "{told}").unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut words = lines.map_while(Result::ok).filter_map(|line| {
            let (_, word) = line.split_once(MARK)?;
            Some(word.to_string())
        });
        let word = words.next().expect("the child says what it has");
        Self { child, stdin: Some(stdin), word }
    }

    /// A process that lends [`N_LENT`] bytes, and the handle to them.
    pub(crate) fn owner() -> (Self, RemoteHandle) {
        let process = Self::start("owner", "");
        let handle = handle_of(&process.word);
        (process, handle)
    }

    /// What a test says that has a process to itself; see [`alone`].
    pub(crate) fn alone(role: &str) -> String {
        Self::start(role, "").word.clone()
    }

    /// A process that reads what `handle` stands for again and again.
    pub(crate) fn reader(handle: &RemoteHandle) -> Self {
        Self::start("reader", &words_of(handle))
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: i32) {
        unsafe extern "C" {
            fn kill(pid: i32, signal: i32) -> i32;
        }
        // SAFETY: a child of ours that has not been waited for, so the number is still its own.
        assert_eq!(unsafe { kill(self.child.id() as i32, signal) }, 0);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Killed before it can notice that nobody talks to it any more.
        let _ = self.child.kill();
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

fn words_of(handle: &RemoteHandle) -> String {
    let RemoteHandle { transports, lease, secret, .. } = handle;
    format!("{} {} {} {}", transports[0], lease.slot, lease.generation, secret.0)
}

fn handle_of(words: &str) -> RemoteHandle {
    let words: Vec<&str> = words.split(' ').collect();
    RemoteHandle {
        owner: here(),
        transports: vec![words[0].into()],
        lease: LeaseId { slot: words[1].parse().unwrap(), generation: words[2].parse().unwrap() },
        secret: Secret(words[3].parse().unwrap()),
    }
}

/// No test of its own: what the other process does. It ends when its parent does.
#[test]
fn a_child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut told = String::new();
    std::io::stdin().read_line(&mut told).unwrap();
    match &role[..] {
        "owner" => runtime.block_on(own()),
        alone::IDLE => say(&runtime.block_on(alone::idle())),
        alone::DEAF => say(&runtime.block_on(alone::deaf())),
        alone::STARVED => say(&runtime.block_on(alone::starved())),
        _ => runtime.block_on(read_for_ever(handle_of(told.trim_end()))),
    }
}

/// Tells the parent.
fn say(word: &str) {
    println!("\n{MARK}{word}");
}

async fn own() {
    let (owner, table) = (start(), Arc::new(LeaseTable::default()));
    let (handle, _served) = lend(&owner, &table, N_LENT, Arc::new(())).await;
    say(&words_of(&handle));
    // The end of the input is the parent's end, or its wish.
    let waiting = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
    waiting.await.unwrap().unwrap();
}

async fn read_for_ever(handle: RemoteHandle) {
    let reader = start();
    let read = || {
        let source = Source { region_idx: 0, offset: 0 };
        reader.read(handle.clone(), vec![source], destination(N_LENT))
    };
    read().await.map(drop).unwrap();
    say("reading");
    // Until it is killed, or its parent withdraws the lease.
    while join_all((0..N_AT_ONCE).map(|_| read())).await.iter().all(Result::is_ok) {}
}
