//! What strangers send, as one table against the real program: each row has its status, its code
//! and words that help, nothing of the inside is told, and afterwards the server is as it was.

mod common;
#[path = "bad_input/fields.rs"]
mod fields;
// What others count of an origin is not counted here.
#[allow(dead_code)]
#[path = "media_http/origin.rs"]
mod origin;
#[path = "bad_input/pictures.rs"]
mod pictures;
#[path = "bad_input/row.rs"]
mod row;
#[path = "bad_input/table.rs"]
mod table;

use common::cluster::{ask, get, program};
use common::folder::Folder;
use common::process::{PATIENCE, Process, becomes_true};
use common::{TOPOLOGIES, demo_model};
use origin::Origin;
use row::{Expected, Refused, Row, data_url, refused};
use serde_json::Value;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Metrics, and one of their labels, that are zero where nothing is at work.
const POOLS: [(&str, &str); 11] = [
    ("dynamo_frontend_inflight_requests", ""),
    ("dynamo_frontend_queued_requests", ""),
    ("triptych_kv_blocks", "state=\"used\""),
    ("triptych_kv_blocks", "state=\"leased\""),
    ("triptych_kv_blocks", "state=\"quarantined\""),
    ("triptych_embedding_bytes", ""),
    ("triptych_running_sequences", ""),
    ("triptych_waiting_sequences", ""),
    ("triptych_calls", ""),
    ("triptych_leases", ""),
    ("triptych_rows_kept_items", ""),
];

/// Words of the inside: places on this machine, libraries, types, and what a program says that
/// fails.
const INSIDE: [&str; 25] = [
    "panicked",
    "unwrap",
    "os error",
    "RUST_BACKTRACE",
    "::",
    ".rs",
    "/proc",
    "/etc",
    "/dev",
    "/tmp",
    "/latest",
    "127.0.",
    "169.254",
    "localhost",
    "serde",
    "minijinja",
    "tokenizers",
    "hyper",
    "rustls",
    "axum",
    "inflate",
    "IHDR",
    "Huffman",
    "Some(",
    "Err(",
];

/// Most memory that the server may have taken, in KiB: the model, its pools, and one of the largest
/// pictures at a time.
const MEMORY_KIB_MAX: u64 = 1536 << 10;

/// A folder with files that may be asked for and files that may not.
struct Files(Folder);

impl Files {
    fn new() -> Self {
        let folder = Folder::new("bad");
        let root = folder.path();
        let [allowed, beside] = ["allowed", "allowed-beside"].map(|name| root.join(name));
        std::fs::create_dir_all(allowed.join("folder")).unwrap();
        std::fs::create_dir_all(&beside).unwrap();
        let good = std::fs::read(demo_model().join("samples/two-shapes.png")).unwrap();
        let secrets = [root.join("secret.png"), beside.join("secret.png")];
        secrets.iter().for_each(|path| std::fs::write(path, &good).unwrap());
        std::fs::write(allowed.join("good.png"), &good).unwrap();
        std::fs::write(allowed.join("large.png"), vec![0; (1 << 20) + 1]).unwrap();
        symlink(root.join("secret.png"), allowed.join("link.png")).unwrap();
        symlink(root, allowed.join("folder-link")).unwrap();
        symlink(allowed.join("loop.png"), allowed.join("loop.png")).unwrap();
        symlink("/dev/zero", allowed.join("zero.png")).unwrap();
        let pipe = Command::new("mkfifo").arg(allowed.join("pipe.png")).status().unwrap();
        assert!(pipe.success());
        Self(folder)
    }

    fn allowed(&self) -> PathBuf {
        self.0.path().join("allowed")
    }
}

/// The program, and where it answers.
struct Server {
    process: Process,
    url: String,
    agent: ureq::Agent,
}

impl Server {
    fn start(roles: &str, allowed: &Path) -> Self {
        let mut command = program("triptych");
        command.args(["serve", "--http-host", "127.0.0.1", "--http-port", "0", "--roles", roles]);
        command.args(["--allowed-media-networks", "127.0.0.1", "--max-file-size-mb", "1"]);
        command.args(["--media-read-timeout-s", "1", "--media-fetch-timeout-s", "2"]);
        command.args(["--max-body-mb", "16", "--threads", "2"]);
        command.arg("--allowed-local-media-path").arg(allowed);
        let small = r#"{"kv_cache_config": {"max_tokens": 8192}}"#;
        command.args(["--override-engine-args", small]);
        let process = Process::spawn("triptych", command.arg("--model-path").arg(demo_model()));
        let line = process.expect_line("serving shapes on http");
        let url = line[line.find("http://").expect("a URL")..].trim().to_owned();
        let agent = ureq::Agent::config_builder().http_status_as_error(false).proxy(None);
        let agent = agent.timeout_global(Some(PATIENCE)).build().new_agent();
        Self { process, url, agent }
    }

    /// Status and body of the answer to these bytes.
    fn post(&self, body: &[u8]) -> (u16, Value) {
        let url = format!("{}/v1/chat/completions", self.url);
        let request = self.agent.post(url).header("content-type", "application/json");
        let mut response = request.send(body).unwrap();
        let text = response.body_mut().read_to_string().unwrap();
        (response.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    fn check_all(&self, rows: &[Row]) {
        rows.iter().for_each(|row| self.check(row));
    }

    fn check(&self, row: &Row) {
        let (status, body) = self.post(&row.body);
        match &row.expected {
            Expected::Answer => {
                assert_eq!(status, 200, "{}: {body}", row.name);
                assert!(body["choices"][0]["message"]["content"].is_string(), "{}", row.name);
            }
            Expected::Refused(how) => check_refusal(&row.name, status, &body, how),
        }
    }

    /// It answers as ever, holds nothing, and has said nothing of a fault.
    fn check_that_it_is_as_before(&self) {
        let question = "What is in the picture?";
        let answer = ask(&self.url, question, &["two-shapes.png"]);
        assert_eq!(answer.as_deref(), Ok("From left to right: a red circle, a blue square."));
        let mut held = Vec::new();
        let holds_nothing = || {
            held = self.held();
            held.is_empty()
        };
        assert!(becomes_true(PATIENCE, holds_nothing), "still held: {held:?}");
        let log = self.process.log();
        for word in ["panicked", "ERROR", "overflow", "RUST_BACKTRACE"] {
            assert!(!log.contains(word), "{word}:\n{log}");
        }
        let most = memory_kib_max(self.process.id());
        println!("most memory: {} MiB", most >> 10);
        assert!(most < MEMORY_KIB_MAX, "{most} KiB");
    }

    /// Lines of metrics that should be zero and are not.
    fn held(&self) -> Vec<String> {
        let (status, text) = get(&format!("{}/metrics", self.url)).expect("metrics");
        assert_eq!(status, 200);
        let lines = |(name, label): (&str, &str)| {
            let of_name = |line: &&str| {
                let rest = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' ']));
                rest.is_some_and(|rest| rest.contains(label))
            };
            let lines: Vec<String> = text.lines().filter(of_name).map(str::to_owned).collect();
            assert!(!lines.is_empty(), "no metric {name} with {label}:\n{text}");
            lines
        };
        let all = POOLS.into_iter().flat_map(lines);
        all.filter(|line| !line.ends_with(" 0")).collect()
    }
}

/// The most memory that a process has had, in KiB.
fn memory_kib_max(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn check_refusal(name: &str, status: u16, body: &Value, how: &Refused) {
    let error = &body["error"];
    assert_eq!(status, how.status, "{name}: {body}");
    assert_eq!(error["code"].as_str(), how.code, "{name}: {error}");
    assert_eq!(error["type"], how.class(), "{name}: {error}");
    let param = error["param"].as_str().unwrap_or_default();
    assert_eq!(param, how.param.as_deref().unwrap_or_default(), "{name}: {error}");
    let message = error["message"].as_str().expect(name);
    assert!(message.contains(&how.words), "{name}: {error}\nlacks: {}", how.words);
    assert!(message.len() < 512 && body.as_object().unwrap().len() == 1, "{name}: {body}");
    check_that_it_tells_nothing(name, message);
}

/// Words for a client are about what the client sent.
fn check_that_it_tells_nothing(name: &str, message: &str) {
    let places = [std::env::temp_dir(), std::env::current_dir().unwrap(), demo_model()];
    let places = places.iter().map(|place| place.to_str().unwrap());
    let found = INSIDE.into_iter().chain(places).find(|word| message.contains(word));
    assert_eq!(found, None, "{name}: {message}");
}

/// What has to do with media, in one process and with roles apart.
#[tokio::test(flavor = "multi_thread")]
async fn bad_media_are_refused_in_words_and_harm_nobody() {
    let (allowed, inside) = (Origin::start("127.0.0.1").await, Origin::start("127.0.0.2").await);
    let files = Files::new();
    let [allowed_url, inside_url] = [&allowed, &inside].map(|origin| origin.url.clone());
    let check = move || {
        for roles in TOPOLOGIES {
            let server = Server::start(roles, &files.allowed());
            server.check_all(&table::lying_pictures());
            server.check_all(&table::odd_pictures());
            server.check_all(&table::mislabelled());
            server.check_all(&table::wrong_addresses());
            server.check_all(&table::inside_addresses(&allowed_url, &inside_url));
            server.check_all(&table::bad_origins(&allowed_url));
            server.check_all(&table::local_files(&files.allowed()));
            server.check_that_it_is_as_before();
        }
    };
    tokio::task::spawn_blocking(check).await.unwrap();
    assert_eq!(inside.n_asked(), 0, "nobody has even connected");
}

/// What has to do with the rest of a request.
#[test]
fn bad_requests_are_refused_in_words_and_harm_nobody() {
    let files = Files::new();
    let server = Server::start("agg", &files.allowed());
    let picture = data_url("image/png", &pictures::golden("formats/rgb.png"));
    server.check_all(&table::conversations(&picture));
    server.check_all(&table::too_long(&picture));
    server.check_all(&table::options(&picture));
    server.check_all(&table::numbers());
    server.check_all(&table::bodies());
    let full = fields::full_request(&picture);
    let (status, _) = server.post(full.to_string().as_bytes());
    assert_eq!(status, 200, "the request is right where no field is wrong");
    for &(field, takes) in fields::FIELDS {
        for kind in &fields::one_of_each_kind() {
            let Some((body, code)) = fields::wrong(&full, (field, takes), kind) else { continue };
            let name = format!("{field} is {}", kind.1);
            server.check(&Row::refused(name, body, refused(400, code, field).at(field)));
        }
    }
    server.check_that_it_is_as_before();
}

/// Every field that the API's page names is in the table of fields.
#[test]
fn every_field_of_the_documentation_is_tried() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/api.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, rest) = page.split_once("## Fields of a chat").expect("the table of fields");
    let rows = rest.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
    let cells = rows.take_while(|line| line.starts_with('|')).map(|row| row.split('|').nth(1));
    let names = cells.flat_map(|cell| cell.unwrap().split('`').skip(1).step_by(2));
    let names: Vec<&str> = names.collect();
    assert!(names.len() > 25, "{names:?}");
    for name in names {
        assert!(fields::FIELDS.iter().any(|(field, _)| *field == name), "{name} is not tried");
    }
}

/// Whatever is wrong with the way a request comes.
#[test]
fn bad_http_is_refused_in_words() {
    let files = Files::new();
    let server = Server::start("agg", &files.allowed());
    let chats = format!("{}/v1/chat/completions", server.url);
    let body = row::about("/a.png").to_string();
    let json = "application/json";
    let post = |kind: &str, body: &[u8]| {
        server.agent.post(&chats).header("content-type", kind).send(body).unwrap()
    };
    let get = |path: &str| server.agent.get(format!("{}{path}", server.url)).call().unwrap();
    let no_model = || refused(404, "model_not_found", "does not exist").at("model");
    let no_type = || refused(415, "unsupported_content_type", "must be application/json");
    let answers = [
        ("words", post("text/plain", body.as_bytes()), no_type()),
        ("a form", post("multipart/form-data; boundary=x", body.as_bytes()), no_type()),
        ("17 MB", post(json, &vec![b' '; 17 << 20]), {
            refused(413, "too_large", "limit of 16777216 bytes")
        }),
        ("a question", get("/v1/chat/completions"), {
            refused(405, "method_not_supported", "does not take GET")
        }),
        ("no address", get("/v1/absent"), refused(404, "unknown_url", "/v1/absent")),
        ("upwards", get("/v1/models/%2e%2e/%2e%2e/config.json"), no_model()),
        ("no UTF-8", get("/v1/models/%FF%FE"), no_model()),
        ("a zero", get("/v1/models/%00"), no_model()),
    ];
    for (name, mut answer, how) in answers {
        let text = answer.body_mut().read_to_string().unwrap();
        let body = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{name}: {text}"));
        check_refusal(name, answer.status().as_u16(), &body, &how);
    }
    server.check_that_it_is_as_before();
}
