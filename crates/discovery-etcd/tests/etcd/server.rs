//! An etcd of the test's own, on free ports, with a data folder that goes with it.

use discovery_etcd::{EtcdConfig, Tls};
use etcd_client::Client;
use planes::Discovery;
use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::PATIENCE;

/// Attempts to find ports that nobody takes before etcd does.
const N_STARTS_MAX: usize = 3;

pub(crate) struct Etcd {
    ports: [u16; 2],
    /// `name=peer-url` of all members.
    cluster: String,
    folder: PathBuf,
    arguments: Vec<String>,
    tls: Option<Tls>,
    process: Option<Child>,
}

/// Ports that were free a moment ago.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("it is bound").port())
}

impl Etcd {
    /// A server that answers; `None`, with the reason on stderr, where etcd is not installed.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_with(|_| (Vec::new(), None)).await
    }

    /// The same with further arguments, made in the server's folder, and TLS to reach it by.
    pub(crate) async fn start_with(
        further: impl Fn(&PathBuf) -> (Vec<String>, Option<Tls>),
    ) -> Option<Self> {
        for _ in 0..N_STARTS_MAX {
            let mut etcd = Self::prepare()?;
            (etcd.arguments, etcd.tls) = further(&etcd.folder);
            etcd.launch();
            if etcd.is_ready().await {
                return Some(etcd);
            }
        }
        panic!("etcd did not start");
    }

    /// Three members of one cluster, the leader first.
    pub(crate) async fn start_three() -> Option<Vec<Self>> {
        let mut members = vec![Self::prepare()?, Self::prepare()?, Self::prepare()?];
        let cluster: Vec<String> = members.iter().map(|etcd| etcd.cluster.clone()).collect();
        for etcd in &mut members {
            etcd.cluster = cluster.join(",");
            etcd.launch();
        }
        for etcd in &mut members {
            assert!(etcd.is_ready().await, "a member has ended");
        }
        let mut leads = Vec::new();
        for etcd in &members {
            let status = etcd.client().await.status().await.expect("it answers");
            leads.push(status.header().expect("a header").member_id() == status.leader());
        }
        members.swap(0, leads.iter().position(|&leads| leads).expect("one leads"));
        Some(members)
    }

    /// A server that does not run yet.
    pub(crate) fn prepare() -> Option<Self> {
        if Command::new("etcd").arg("--version").output().is_err() {
            let help = "the program `etcd` is not there; install the package etcd-server";
            assert!(std::env::var_os("CI").is_none(), "{help}");
            eprintln!("skipped: {help}");
            return None;
        }
        let ports: [u16; 2] = free_ports();
        let name = format!("etcd-{}-{}", std::process::id(), ports[0]);
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&folder).expect("a folder for etcd");
        let mut etcd = Self {
            ports,
            cluster: String::new(),
            folder,
            arguments: Vec::new(),
            tls: None,
            process: None,
        };
        etcd.cluster = format!("{}={}", etcd.name(), etcd.peer_url());
        Some(etcd)
    }

    fn name(&self) -> String {
        format!("member-{}", self.ports[0])
    }

    fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[1])
    }

    fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.ports[0])
    }

    /// Starts it; what it knew before is there again unless it was forgotten.
    pub(crate) fn launch(&mut self) {
        let (client, peer) = (self.url(), self.peer_url());
        let log = fs::File::create(self.folder.join("log")).expect("a log file");
        let started = Command::new("etcd")
            .args(["--data-dir", self.folder.join("data").to_str().expect("a plain path")])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--name", &self.name(), "--initial-cluster", &self.cluster])
            .args(["--unsafe-no-fsync", "--bcrypt-cost", "4", "--logger", "zap"])
            .args(&self.arguments)
            .env_clear()
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.process = Some(started.expect("etcd starts"));
    }

    /// Waits until it answers. False when it has ended instead.
    async fn is_ready(&mut self) -> bool {
        let give_up = Instant::now() + PATIENCE;
        while Instant::now() < give_up {
            let start_deadline = Duration::from_millis(300);
            let config = EtcdConfig { start_deadline, ..self.config() };
            if discovery_etcd::check(config).await.is_ok() {
                return true;
            }
            let process = self.process.as_mut().expect("it was started");
            if process.try_wait().expect("it is our child").is_some() {
                return false;
            }
        }
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        panic!("etcd does not answer: {log}");
    }

    pub(crate) fn config(&self) -> EtcdConfig {
        EtcdConfig {
            endpoints: vec![self.url()],
            namespace: "tests".into(),
            tls: self.tls.clone(),
            ..EtcdConfig::default()
        }
    }

    pub(crate) async fn connect(&self) -> Arc<dyn Discovery> {
        discovery_etcd::connect(self.config()).await.expect("etcd answers")
    }

    /// etcd's own client, past the code under test.
    pub(crate) async fn client(&self) -> Client {
        Client::connect([self.url()], None).await.expect("a client")
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Deletes all that it knows.
    pub(crate) fn forget(&self) {
        fs::remove_dir_all(self.folder.join("data")).expect("its data folder");
    }

    /// Sends a signal by name: `STOP` makes a black hole of it, `CONT` lets it go on.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.process.as_ref().expect("it runs").id();
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status();
        assert!(sent.expect("a shell").success(), "{name} was not sent");
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
