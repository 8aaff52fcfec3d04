//! etcd and NATS of a test's own, on free ports and in temporary folders.

use super::folder::Folder;
use super::process::{Process, becomes_true};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

/// Attempts to start a server on a port that was free a moment before.
const ATTEMPTS_MAX: usize = 5;

/// Longest wait for a server to listen.
const START_TIME: Duration = Duration::from_secs(20);

/// A running etcd.
pub(crate) struct Etcd {
    pub(crate) process: Process,
    ports: [u16; 2],
    folder: Folder,
}

/// A running NATS server.
pub(crate) struct Nats {
    pub(crate) process: Process,
    port: u16,
}

/// Whether the servers are installed. Where they must be (`CI`), their absence is a failure.
pub(crate) fn are_installed() -> bool {
    let is_there = |program: &str| {
        Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
    };
    let missing: Vec<_> =
        ["etcd", "nats-server"].into_iter().filter(|program| !is_there(program)).collect();
    let install = "install them (Debian: etcd-server, nats-server)";
    if !missing.is_empty() {
        assert!(std::env::var_os("CI").is_none(), "{} missing: {install}", missing.join(", "));
        println!("skipped: {} missing; {install}", missing.join(", "));
    }
    missing.is_empty()
}

/// A port that nobody listens on at this moment.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

impl Etcd {
    /// Starts one with nothing in it.
    pub(crate) fn start() -> Self {
        (0..ATTEMPTS_MAX)
            .find_map(|_| Self::start_at([free_port(), free_port()]))
            .expect("etcd starts on some port")
    }

    /// Starts one with nothing in it on these ports, for clients and for peers; `None` when they
    /// are taken.
    pub(crate) fn start_at(ports: [u16; 2]) -> Option<Self> {
        let folder = Folder::new("etcd");
        let process = spawn_etcd(ports, &folder);
        let listens = listens_or_ends(&process, ports[0], "ready to serve client requests");
        listens.then_some(Self { process, ports, folder })
    }

    /// Starts it again after its end, with what it knew.
    pub(crate) fn restart(&mut self) {
        self.process.kill();
        self.process = spawn_etcd(self.ports, &self.folder);
        let listens =
            listens_or_ends(&self.process, self.ports[0], "ready to serve client requests");
        assert!(listens, "etcd did not start again:\n{}", self.process.log());
    }

    /// Where clients reach it.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[0])
    }
}

fn spawn_etcd([client, peer]: [u16; 2], folder: &Folder) -> Process {
    let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
    let cluster = format!("test={peer}");
    let mut command = Command::new("etcd");
    command.args(["--name", "test", "--data-dir"]).arg(folder.path());
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &cluster]);
    Process::spawn("etcd", &mut command)
}

impl Nats {
    /// Starts one on a port that it chooses itself.
    pub(crate) fn start() -> Self {
        // A port below zero is any free one.
        let process = spawn_nats("-1");
        let line = process.expect_line("Listening for client connections on");
        let port = line.rsplit(':').next().unwrap().trim().parse().unwrap();
        process.expect_line("Server is ready");
        Self { process, port }
    }

    /// Starts it again after its end, on the same port.
    pub(crate) fn restart(&mut self) {
        self.process.kill();
        self.process = spawn_nats(&self.port.to_string());
        self.process.expect_line("Server is ready");
    }

    /// Where clients reach it.
    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }
}

fn spawn_nats(port: &str) -> Process {
    let mut command = Command::new("nats-server");
    command.args(["--addr", "127.0.0.1", "--port", port]);
    Process::spawn("nats-server", &mut command)
}

/// Whether the server listens; false when it ended instead.
fn listens_or_ends(process: &Process, port: u16, words: &str) -> bool {
    let connects = || TcpStream::connect(("127.0.0.1", port)).is_ok();
    process.line_with(words).is_some() && becomes_true(START_TIME, connects)
}
