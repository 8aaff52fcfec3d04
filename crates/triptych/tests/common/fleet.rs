//! A cluster with a frontend and several workers of each role: who is registered, what they hold,
//! how much memory they take.

use super::cluster::{Cluster, Meeting, Role, program, url_in};
use super::crowd::Sheet;
use super::demo_model;
use super::process::{PATIENCE, Process, becomes_true};
use super::questions::Question;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::fs::File;
use std::time::{Duration, Instant};

/// What keeps a prefill worker from encoding itself.
const TOLD_ITS_ENCODERS: [&str; 2] = ["--encode-endpoint", "dyn://dynamo.encode.generate"];

/// Small caches, so that their memory is soon in use, all of it.
const SMALL_CACHES: [&str; 4] = [
    "--override-engine-args",
    r#"{"kv_cache_config": {"max_tokens": 16384}}"#,
    "--multimodal-embedding-cache-capacity-gb",
    "0.02",
];

/// Where instances are registered.
const INSTANCES: &str = "/triptych/v1/dynamo/instances/";

/// What is zero in a worker that does nothing and owes nobody.
const HOLDINGS_OF_WORKERS: [&str; 11] = [
    "triptych_kv_blocks{|state=\"used\"",
    "triptych_kv_blocks{|state=\"leased\"",
    "triptych_kv_blocks{|state=\"quarantined\"",
    "triptych_kv_blocks_promised{|",
    "triptych_embedding_bytes{|",
    "triptych_rows_kept_items{|",
    "triptych_leases{|",
    "triptych_calls{|",
    "triptych_running_sequences{|",
    "triptych_waiting_sequences{|",
    "triptych_encode_queue_items{|",
];

/// The same of a frontend.
const HOLDINGS_OF_FRONTENDS: [&str; 2] =
    ["dynamo_frontend_inflight_requests{|", "dynamo_frontend_queued_requests{|"];

/// A test's turn on this machine, across processes; it ends when this is dropped.
pub(crate) struct Turn(#[expect(dead_code, reason = "kept for its drop")] File);

impl Turn {
    /// For a test that uses the whole machine or times what it sees closely.
    pub(crate) fn alone() -> Self {
        let file = turns();
        file.lock().unwrap();
        Self(file)
    }

    /// For a test that mostly waits.
    pub(crate) fn beside_others() -> Self {
        let file = turns();
        file.lock_shared().unwrap();
        Self(file)
    }
}

fn turns() -> File {
    File::create(std::env::temp_dir().join("triptych-cluster-tests.lock")).unwrap()
}

/// A size that a variable may raise.
pub(crate) fn size(variable: &str, usual: usize) -> usize {
    std::env::var(variable).map_or(usual, |text| text.parse().expect(variable))
}

/// A frontend and workers. Dropped in this order: processes first, then what they meet at.
pub(crate) struct Fleet {
    pub(crate) frontend: Role,
    pub(crate) url: String,
    pub(crate) workers: Vec<Worker>,
    pub(crate) cluster: Cluster,
}

/// A worker, and how it was started.
pub(crate) struct Worker {
    /// `e`, `p` (prefill that was told who encodes), `q` (prefill that can encode), `d`, `w` (all).
    pub(crate) letter: char,
    pub(crate) role: Role,
    flags: Vec<String>,
}

impl Worker {
    pub(crate) fn start(place: &Meeting, letter: char, flags: &[&str]) -> Self {
        let (name, own): (_, &[&str]) = match letter {
            'e' => ("encode-worker", &[]),
            'p' => ("prefill-worker", &TOLD_ITS_ENCODERS),
            'q' => ("prefill-worker", &[]),
            'd' => ("decode-worker", &[]),
            'w' => ("worker", &[]),
            _ => panic!("{letter} is no worker"),
        };
        // The first flag of both may be given once only.
        let own_caches = flags.contains(&SMALL_CACHES[0]);
        let caches = if own_caches { &SMALL_CACHES[2..] } else { &SMALL_CACHES };
        let all = [own, caches, flags].concat();
        let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        Self { letter, role: place.role(name, &all), flags }
    }

    /// Starts another in its place, and waits until it is ready.
    pub(crate) fn start_again(&mut self, place: &Meeting) {
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        *self = Self::start(place, self.letter, &flags);
        self.role.expect_health();
    }

    /// Its subject for calls.
    pub(crate) fn address(&self) -> String {
        let line = self.role.process.expect_line(" is ready at ");
        let rest = line.split(" is ready at ").nth(1).unwrap();
        rest.split(',').next().unwrap().to_owned()
    }

    /// Where it serves its memory: `tcp://host:port/table` and the like.
    pub(crate) fn memory(&self) -> Vec<String> {
        let line = self.role.process.expect_line("serves its memory at [");
        let rest = line.split("serves its memory at [").nth(1).unwrap();
        rest.split(']').next().unwrap().split(", ").map(str::to_owned).collect()
    }
}

impl Fleet {
    /// Starts a worker for each letter, and a frontend; `None` where servers are not installed.
    pub(crate) fn start(transport: &'static str, letters: &str, flags: &[&str]) -> Option<Self> {
        let cluster = Cluster::start(transport)?;
        Some(Self::start_in(cluster, letters, flags))
    }

    /// The same in a cluster that is there already.
    pub(crate) fn start_in(cluster: Cluster, letters: &str, flags: &[&str]) -> Self {
        let start = |letter| Worker::start(&cluster.place, letter, flags);
        let workers: Vec<Worker> = letters.chars().map(start).collect();
        let key: Vec<&str> = match flags.iter().position(|flag| *flag == "--cluster-key-file") {
            Some(idx) => flags[idx..idx + 2].to_vec(),
            None => Vec::new(),
        };
        let frontend = cluster.role("frontend", &key);
        workers.iter().for_each(|worker| worker.role.expect_health());
        frontend.expect_health();
        Self { url: frontend.url(), frontend, workers, cluster }
    }

    /// The first worker with this letter, to look at.
    pub(crate) fn look_at(&self, letter: char) -> &Worker {
        self.workers.iter().find(|worker| worker.letter == letter).expect("such a worker")
    }

    /// The first worker with this letter.
    pub(crate) fn first(&mut self, letter: char) -> &mut Worker {
        self.workers.iter_mut().find(|worker| worker.letter == letter).expect("such a worker")
    }

    /// Waits until nobody holds anything for any request; gives how long that took.
    pub(crate) fn expect_idle(&self, within: Duration) -> Duration {
        expect_nothing_held(within, || self.holdings())
    }

    /// What anybody holds, line by line.
    pub(crate) fn holdings(&self) -> Vec<String> {
        let of_worker = |worker: &Worker| holdings(&worker.role, &HOLDINGS_OF_WORKERS);
        let mut all: Vec<String> = self.workers.iter().flat_map(of_worker).collect();
        all.extend(holdings(&self.frontend, &HOLDINGS_OF_FRONTENDS));
        all
    }

    /// Resident memory of each process, in KiB, with its name.
    pub(crate) fn resident_kib(&self) -> Vec<(String, u64)> {
        let numbered = self.workers.iter().enumerate();
        let worker = |(idx, worker): (usize, &Worker)| {
            (format!("{}{idx}", worker.letter), resident_kib(worker.role.process.id()))
        };
        let frontend = ("frontend".to_owned(), resident_kib(self.frontend.process.id()));
        numbered.map(worker).chain([frontend]).collect()
    }

    /// Every process still runs.
    pub(crate) fn expect_all_alive(&self) {
        for role in self.workers.iter().map(|worker| &worker.role).chain([&self.frontend]) {
            let alive = becomes_true(PATIENCE, || {
                role.get("/live").is_some_and(|(status, _)| status == 200)
            });
            assert!(alive, "a process has ended:\n{}", role.process.log());
        }
    }

    /// The instances that etcd shows.
    pub(crate) fn instances(&self) -> Vec<Value> {
        let range = json!({"key": STANDARD.encode(INSTANCES),
                           "range_end": STANDARD.encode("/triptych/v1/dynamo/instances0")});
        let found = etcd(&self.cluster.place, "range", &range);
        let values = found["kvs"].as_array().cloned().unwrap_or_default();
        let read = |kv: &Value| {
            let value = STANDARD.decode(kv["value"].as_str()?).ok()?;
            serde_json::from_slice(&value).ok()
        };
        values.iter().filter_map(read).collect()
    }

    /// Waits until etcd shows as many instances as there are workers.
    pub(crate) fn expect_all_registered(&self) {
        let n = self.workers.len();
        let all = becomes_true(PATIENCE, || self.instances().len() == n);
        assert!(all, "etcd shows {:?}", self.instances());
    }
}

/// Writes an instance under a name, whatever it is.
pub(crate) fn put_instance(place: &Meeting, name: &str, value: &str) {
    let key = STANDARD.encode(format!("{INSTANCES}{name}"));
    etcd(place, "put", &json!({"key": key, "value": STANDARD.encode(value)}));
}

/// Asks etcd over its JSON gateway; nothing when it does not answer.
fn etcd(place: &Meeting, what: &str, body: &Value) -> Value {
    let config = ureq::Agent::config_builder().proxy(None);
    let agent = config.timeout_global(Some(Duration::from_secs(2))).build().new_agent();
    let answer = agent.post(format!("{}/v3/kv/{what}", place.etcd_url)).send(body.to_string());
    let text = answer.ok().and_then(|mut answer| answer.body_mut().read_to_string().ok());
    text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

/// Waits until `holdings` are none; gives how long that took.
fn expect_nothing_held(within: Duration, holdings: impl Fn() -> Vec<String>) -> Duration {
    let began = Instant::now();
    let mut held = Vec::new();
    let is_idle = becomes_true(within, || {
        held = holdings();
        held.is_empty()
    });
    assert!(is_idle, "after {within:?} still there:\n{}", held.join("\n"));
    began.elapsed()
}

fn holdings(role: &Role, names: &[&str]) -> Vec<String> {
    let Some((_, text)) = role.get("/metrics") else {
        return vec![format!("{} does not answer", role.system_url)];
    };
    let is_held = |line: &&str| {
        let is_named = names.iter().any(|name| {
            let (begin, label) = name.split_once('|').unwrap();
            line.starts_with(begin) && line.contains(label)
        });
        is_named && !line.ends_with(" 0")
    };
    text.lines().filter(is_held).map(|line| format!("{}: {line}", role.system_url)).collect()
}

/// Growth from one value to the next, by least squares.
pub(crate) fn slope(values: &[u64]) -> f64 {
    let n = values.len() as f64;
    let mean_x = (n - 1.0) / 2.0;
    let mean_y = values.iter().sum::<u64>() as f64 / n;
    let both = values.iter().enumerate();
    let (xy, xx) = both.fold((0.0, 0.0), |(xy, xx), (x, &y)| {
        let x = x as f64 - mean_x;
        (xy + x * (y as f64 - mean_y), xx + x * x)
    });
    xy / xx
}

/// Resident memory of a process, in KiB.
pub(crate) fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// `triptych serve` with `roles`: one process that answers clients, and on the same port says what
/// a system port would. `flags` are more of them.
pub(crate) fn one_process(roles: &str, flags: &[&str]) -> Role {
    let mut command = program("triptych");
    command.args(["serve", "--roles", roles, "--http-host", "127.0.0.1", "--http-port", "0"]);
    command.args(SMALL_CACHES).args(flags).arg("--model-path").arg(demo_model());
    let process = Process::spawn("triptych serve", &mut command);
    let system_url = url_in(&process.expect_line(" serving "));
    Role { process, system_url }
}

/// Waits until one process with all roles holds nothing for any request; gives how long that took.
pub(crate) fn expect_idle_process(role: &Role, within: Duration) -> Duration {
    let names = [&HOLDINGS_OF_WORKERS[..], &HOLDINGS_OF_FRONTENDS].concat();
    expect_nothing_held(within, || holdings(role, &names))
}

/// The answers of `triptych serve`, all roles in one process, to `questions`.
pub(crate) fn sheet(questions: Vec<Question>) -> Sheet {
    Sheet::fill(&one_process("agg", &[]).system_url, questions)
}
