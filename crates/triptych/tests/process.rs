//! The real programs: they say what they take and what is wrong, and a signal lets them finish.

mod common;

use common::cluster::{ROLES, program};
use common::demo_model;
use common::folder::Folder;
use common::process::{PATIENCE, Process, Signal};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

fn triptych(args: &[&str]) -> Command {
    let mut command = program("triptych");
    command.args(args);
    command
}

/// Status and all words of a program that ends by itself.
fn output(command: &mut Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    let words = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (output.status.code(), words.concat())
}

/// Starts serving the demo model; gives the process and `host:port`.
fn serve() -> (Process, String) {
    let flags = ["serve", "--http-host", "127.0.0.1", "--http-port", "0", "--model-path"];
    let process = Process::spawn("triptych", triptych(&flags).arg(demo_model()));
    let line = process.expect_line("serving shapes on http://");
    let address = line.trim().rsplit("http://").next().unwrap().to_owned();
    (process, address)
}

#[test]
fn sigterm_lets_a_running_answer_finish() {
    let (mut process, address) = serve();
    let body = r#"{"model": "shapes", "stream": true, "max_tokens": 600, "ignore_eos": true,
        "messages": [{"role": "user", "content": "Hello!"}]}"#;
    let mut socket = TcpStream::connect(&address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: test\r\nconnection: close";
    let n_bytes = body.len();
    write!(socket, "{head}\r\ncontent-type: application/json\r\ncontent-length: {n_bytes}\r\n\r\n")
        .unwrap();
    socket.write_all(body.as_bytes()).unwrap();
    let mut begun = [0; 64];
    socket.read_exact(&mut begun).unwrap();
    process.signal(Signal::Term);
    let mut rest = String::new();
    socket.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("data: [DONE]"), "{rest}");
    assert!(!rest.contains("\"error\""), "{rest}");
    let status = process.expect_end();
    assert!(status.success(), "{status}");
    assert!(TcpStream::connect(&address).is_err(), "nobody listens any more");
}

#[test]
fn every_program_says_what_it_takes() {
    let check = |command: &mut Command, expected: &[&str]| {
        let (status, words) = output(command.arg("--help"));
        assert_eq!(status, Some(0), "{words}");
        for word in expected {
            assert!(words.contains(word), "{command:?} does not say {word}");
        }
    };
    for role in ROLES {
        let own = if role == "frontend" { "--http-port" } else { "--model-path" };
        check(&mut program(role), &["--etcd-endpoints", "--nats-url", "--system-port", own]);
    }
    check(&mut program("worker"), &["--disaggregation-mode"]);
    check(&mut triptych(&["serve"]), &["--roles", "--transport"]);
    check(&mut triptych(&["check"]), &["--for"]);
    check(&mut triptych(&["bench", "load"]), &["--url"]);
}

#[test]
fn secrets_of_the_environment_are_not_shown() {
    let mut command = program("frontend");
    command.env("TRIPTYCH_NATS_URL", "nats://me:hunter2@nats").arg("--help");
    let (_, words) = output(&mut command);
    assert!(words.contains("TRIPTYCH_NATS_URL") && !words.contains("hunter2"), "{words}");
}

#[test]
fn what_is_wrong_is_said_in_words() {
    let check = |command: &mut Command, expect: &str| {
        let (status, words) = output(command);
        assert_ne!(status, Some(0), "{command:?}");
        assert!(words.contains(expect), "{command:?} says {words:?}, not {expect:?}");
        assert!(!words.contains("panicked"), "{words}");
    };
    let serve = |args: &[&str], expect: &str| {
        check(triptych(&["serve", "--http-port", "0"]).args(args), expect);
    };
    serve(&[], "--model-path");
    serve(&["--model-path", "/nowhere"], "/nowhere");
    let model = demo_model();
    let model = model.to_str().unwrap();
    serve(&["--model-path", model, "--roles", "e,p"], "--roles");
    serve(&["--model-path", model, "--device", "cuda:99"], "--device cuda:99: ");
    serve(&["--model-path", model, "--override-engine-args", "{\"a\": 1}"], "unknown key");
    let worker = |args: &[&str], expect: &str| {
        check(program("worker").args(["--model-path", model]).args(args), expect);
    };
    worker(&["--transport", "mem"], "inside one process only");
    worker(&["--encode-endpoint", "dyn://dynamo.e.generate"], "only a prefill worker");
    check(&mut program("decode-worker"), "--model-path");
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let http = ["--http-host", "127.0.0.1", "--http-port", &port];
    check(program("frontend").args(http), "--http-port: cannot listen on 127.0.0.1");
}

#[test]
fn a_check_says_what_would_fail_and_why() {
    let model = demo_model();
    let model = model.to_str().unwrap();
    let check = |args: &[&str], status: i32, expected: &[&str]| {
        let (found, words) = output(triptych(&["check"]).args(args));
        assert_eq!(found, Some(status), "{args:?} says {words}");
        for line in expected {
            assert!(words.lines().any(|found| found.starts_with(line)), "{line:?} not in {words}");
        }
    };
    let here = ["--http-host", "127.0.0.1", "--model-path", model];
    let free = [&here[..], &["--http-port", "0"]].concat();
    check(&free, 0, &["ok    http port", "ok    model", "ok    memory"]);
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    check(&[&here[..], &["--http-port", &port]].concat(), 1, &["FAIL  http port"]);
    let nowhere = "127.0.0.1:9";
    let servers = ["--etcd-endpoints", nowhere, "--nats-url", nowhere, "--start-timeout-s", "1"];
    let worker = ["--for", "worker", "--model-path", model, "--transport", "tcp"];
    let lines = ["FAIL  etcd", "FAIL  nats", "ok    tcp", "warn  cluster key", "ok    model"];
    check(&[&worker[..], &servers[..]].concat(), 1, &lines);
    let folder = env!("CARGO_MANIFEST_DIR");
    check(&["--http-port", "0", "--model-path", folder], 1, &["FAIL  model"]);
    let huge = ["--override-engine-args", r#"{"kv_cache_config": {"max_tokens": 4294967296}}"#];
    check(&[&free[..], &huge[..]].concat(), 1, &["FAIL  memory"]);
    check(&["--model-path", "/nowhere"], 1, &["FAIL  options       --model-path /nowhere"]);
}

/// A program of a worker that looks for UCX in `library`, and for etcd and NATS where nobody is.
fn worker_with_ucx(name: &str, library: &Path, transport: &str) -> Command {
    let mut command = program(name);
    command.env("TRIPTYCH_UCX_LIBRARY", library).args(match name {
        "triptych" => &["check", "--for", "worker"][..],
        _ => &["--system-host", "127.0.0.1", "--system-port", "0"],
    });
    command.args(["--transport", transport, "--transport-host", "127.0.0.1"]);
    command.args(["--etcd-endpoints", "127.0.0.1:9", "--nats-url", "127.0.0.1:9"]);
    command.args(["--start-timeout-s", "1", "--model-path"]).arg(demo_model());
    command
}

/// What a program says of UCX: the line of it with these words.
fn line_about_ucx(name: &str, library: &Path, transport: &str, words: &str) -> String {
    let (status, said) = output(&mut worker_with_ucx(name, library, transport));
    // Nobody is there to work with in any case.
    assert_eq!(status, Some(1), "{said}");
    let line = said.lines().find(|line| line.contains(words));
    line.unwrap_or_else(|| panic!("{words:?} is not in {said}")).to_owned()
}

#[test]
fn who_has_no_ucx_is_told() {
    let folder = Folder::new("stub");
    let absent = PathBuf::from("libnosuchucp.so.0");
    let mut useless = vec![(absent, "libnosuchucp.so.0")];
    let mut said_of_own = None;
    if transport_ucx::check().is_ok() {
        let words = "is UCX 1.99.0, but only 1.13 to 1.22 are known to work";
        useless.push((library_that_says(&folder, 1, 99), words));
        said_of_own = Some("ok    ucx ");
    }
    let told = [
        ("worker", "auto", "TCP carries all transfers, because UCX cannot be used: "),
        ("worker", "ucx", "worker: --transport ucx: "),
        ("triptych", "auto", "warn  ucx           TCP carries all transfers: "),
        ("triptych", "ucx", "FAIL  ucx "),
    ];
    // At once, because each waits a while for etcd.
    std::thread::scope(|scope| {
        for (library, words) in &useless {
            for (name, transport, beginning) in told {
                scope.spawn(move || {
                    let line = line_about_ucx(name, library, transport, words);
                    assert!(line.contains(beginning), "{beginning:?} is not in {line}");
                });
            }
        }
        said_of_own.map(|words| {
            scope.spawn(move || line_about_ucx("triptych", Path::new("libucp.so.0"), "ucx", words))
        });
    });
}

/// UCX itself, but for the version that it names.
fn library_that_says(folder: &Folder, major: u32, minor: u32) -> PathBuf {
    let source = format!(
        "void ucp_get_version(unsigned *a, unsigned *b, unsigned *c) \
         {{ *a = {major}; *b = {minor}; *c = 0; }}"
    );
    let source = folder.write("stub.c", &source);
    let library = folder.path().join("libstub.so");
    // What it lacks is found in the libraries that it needs.
    let flags = ["-shared", "-fPIC", "-Wl,--no-as-needed", "-o"];
    let mut compile = Command::new("cc");
    compile.args(flags).arg(&library).args([&source, "-l:libucp.so.0"]);
    let (status, said) = output(&mut compile);
    assert_eq!(status, Some(0), "{said}");
    library
}
