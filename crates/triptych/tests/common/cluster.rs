//! Processes of their own over real etcd and NATS: started in any order, asked, measured, and sent
//! signals.

use super::process::{PATIENCE, Process, Signal, becomes_true};
use super::servers::{Etcd, Nats, are_installed};
use super::{chat, demo_model};
use bench::client::Client;
use serde_json::Value;
use std::process::Command;
use std::time::Duration;

/// A question to a port is answered by then, or not at all (a process that stands still, say).
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// The programs of this crate, as cargo built them.
const PROGRAMS: [(&str, &str); 6] = [
    ("triptych", env!("CARGO_BIN_EXE_triptych")),
    ("frontend", env!("CARGO_BIN_EXE_frontend")),
    ("worker", env!("CARGO_BIN_EXE_worker")),
    ("encode-worker", env!("CARGO_BIN_EXE_encode-worker")),
    ("prefill-worker", env!("CARGO_BIN_EXE_prefill-worker")),
    ("decode-worker", env!("CARGO_BIN_EXE_decode-worker")),
];

/// The programs of separate processes.
pub(crate) const ROLES: [&str; 5] =
    ["frontend", "worker", "encode-worker", "prefill-worker", "decode-worker"];

/// A command that starts one of this crate's programs, without the flags of this shell, on the
/// processor unless a flag says otherwise.
pub(crate) fn program(name: &str) -> Command {
    let (_, path) = PROGRAMS.iter().find(|(known, _)| *known == name).expect("a known program");
    let mut command = Command::new(path);
    for (variable, _) in std::env::vars() {
        let is_option = variable.starts_with("TRIPTYCH_")
            || ["ETCD_ENDPOINTS", "NATS_URL", "NATS_SERVER", "RUST_LOG"]
                .contains(&variable.as_str());
        if is_option {
            command.env_remove(variable);
        }
    }
    command.env("TRIPTYCH_DEVICE", "cpu");
    command
}

/// etcd and NATS, and where they are.
pub(crate) struct Cluster {
    pub(crate) etcd: Etcd,
    pub(crate) nats: Nats,
    pub(crate) place: Meeting,
}

/// Where processes meet, whether or not anybody is there yet.
#[derive(Debug, Clone)]
pub(crate) struct Meeting {
    pub(crate) etcd_url: String,
    pub(crate) nats_url: String,
    pub(crate) transport: &'static str,
    /// How much processes say (`TRIPTYCH_LOG`), where that is not the usual.
    pub(crate) log: Option<&'static str>,
}

impl Cluster {
    /// Starts etcd and NATS, for processes that move bytes over `transport`; `None` where they are
    /// not installed.
    pub(crate) fn start(transport: &'static str) -> Option<Self> {
        if !are_installed() {
            return None;
        }
        let (etcd, nats) = (Etcd::start(), Nats::start());
        let place = Meeting { transport, ..Meeting::over_tcp(etcd.url(), nats.url()) };
        Some(Self { etcd, nats, place })
    }

    /// Starts a program of a role, with more flags.
    pub(crate) fn role(&self, name: &str, more: &[&str]) -> Role {
        self.place.role(name, more)
    }
}

impl Meeting {
    /// For processes that move bytes over TCP.
    pub(crate) fn over_tcp(etcd_url: String, nats_url: String) -> Self {
        Self { etcd_url, nats_url, transport: "tcp", log: None }
    }

    /// Starts a program of a role, with more flags. Workers serve the demo model; `triptych` is
    /// `triptych serve`, reachable by the others.
    pub(crate) fn role(&self, name: &str, more: &[&str]) -> Role {
        let mut command = program(name);
        command.envs(self.log.map(|log| ("TRIPTYCH_LOG", log)));
        if name == "triptych" {
            command.args(["serve", "--discovery-backend", "etcd"]);
        }
        command.args(["--etcd-endpoints", &self.etcd_url, "--nats-url", &self.nats_url]);
        command.args(["--transport", self.transport, "--transport-host", "127.0.0.1"]);
        command.args(["--system-host", "127.0.0.1", "--system-port", "0"]);
        if ["frontend", "triptych"].contains(&name) {
            command.args(["--http-host", "127.0.0.1", "--http-port", "0"]);
        }
        if name != "frontend" {
            command.args(["--threads", "1", "--model-path"]).arg(demo_model());
        }
        let process = Process::spawn(name, command.args(more));
        let line = process.expect_line("system port on http://");
        Role { system_url: url_in(&line), process }
    }
}

/// A running process of a role.
pub(crate) struct Role {
    pub(crate) process: Process,
    /// Where it answers `/health`, `/live` and `/metrics`.
    pub(crate) system_url: String,
}

impl Role {
    /// Where a frontend answers clients; waits until it does.
    pub(crate) fn url(&self) -> String {
        url_in(&self.process.expect_line(" serving "))
    }

    /// Status and body of a path of its system port; `None` when it does not answer.
    pub(crate) fn get(&self, path: &str) -> Option<(u16, String)> {
        get(&format!("{}{path}", self.system_url))
    }

    /// Waits until it is ready, for a frontend: until some model can answer.
    pub(crate) fn expect_health(&self) {
        let mut last = None;
        let is_ready = || {
            last = self.get("/health");
            last.as_ref().is_some_and(|(status, _)| *status == 200)
        };
        let is_ready = becomes_true(PATIENCE, is_ready);
        assert!(is_ready, "not ready, but {last:?}:\n{}", self.process.log());
    }

    /// Waits until it says that it is not ready, with `words` for why.
    pub(crate) fn expect_lack(&self, words: &str) {
        let mut last = None;
        let lacks = || {
            last = self.get("/health");
            last.as_ref().is_some_and(|(status, body)| *status == 503 && body.contains(words))
        };
        let lacks = becomes_true(PATIENCE, lacks);
        assert!(lacks, "it does not lack {words:?}, but says {last:?}");
    }

    /// The sum of a metric over all label sets that hold all of `labels` (`state="free"`).
    pub(crate) fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let (_, text) = self.get("/metrics").expect("metrics");
        let of_name = text.lines().filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        let chosen = of_name.filter(|line| labels.iter().all(|label| line.contains(label)));
        chosen.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// Stands still until [`Self::resume`].
    pub(crate) fn pause(&self) {
        self.process.signal(Signal::Stop);
    }

    /// Goes on.
    pub(crate) fn resume(&self) {
        self.process.signal(Signal::Cont);
    }

    /// Ends it at once, as a crash would.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Asks it to stop, and waits for its end; the status must be a success.
    pub(crate) fn stop(&mut self) {
        self.process.signal(Signal::Term);
        let status = self.process.expect_end();
        assert!(status.success(), "{status}:\n{}", self.process.log());
    }
}

/// The answer of the server at `url` to a question about pictures of the demo model.
pub(crate) fn ask(url: &str, question: &str, pictures: &[&str]) -> Result<String, String> {
    let client = Client::connect(url, Some("shapes"))?;
    client.ask(&chat(question, pictures)).map(|reply| reply.text)
}

/// Status and body; `None` when nobody answers in time.
pub(crate) fn get(url: &str) -> Option<(u16, String)> {
    let mut response = agent(ANSWER_TIME).get(url).call().ok()?;
    let text = response.body_mut().read_to_string().ok()?;
    Some((response.status().as_u16(), text))
}

/// Status and JSON of the answer to a chat.
pub(crate) fn post_chat(url: &str, body: &Value) -> (u16, Value) {
    post_chat_as_part_of(url, body, None)
}

/// The same with a `traceparent`.
pub(crate) fn post_chat_as_part_of(url: &str, body: &Value, trace: Option<&str>) -> (u16, Value) {
    let url = format!("{url}/v1/chat/completions");
    let request = agent(PATIENCE).post(url).header("content-type", "application/json");
    let request = match trace {
        Some(trace) => request.header("traceparent", trace),
        None => request,
    };
    let mut response = request.send(body.to_string()).unwrap();
    let text = response.body_mut().read_to_string().unwrap();
    (response.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

fn agent(patience: Duration) -> ureq::Agent {
    let config = ureq::Agent::config_builder();
    let config = config.http_status_as_error(false).proxy(None);
    config.timeout_global(Some(patience)).build().new_agent()
}

pub(crate) fn url_in(line: &str) -> String {
    line[line.find("http://").expect("a URL")..].trim().to_owned()
}
