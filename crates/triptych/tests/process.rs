//! The real binary: it says what is wrong, and SIGTERM lets it finish what it has begun.

mod common;

use common::demo_model;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

/// A process that is killed if the test fails.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn triptych(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_triptych"));
    command.args(args).stderr(Stdio::piped()).stdin(Stdio::null()).env("NO_COLOR", "1");
    command
}

/// Starts serving the demo model; gives the process and `host:port`.
fn serve() -> (Process, String) {
    let model = demo_model();
    let flags = ["serve", "--http-host", "127.0.0.1", "--http-port", "0", "--model-path"];
    let mut command = triptych(&flags);
    let mut process = Process(command.arg(model).spawn().unwrap());
    let mut log = BufReader::new(process.0.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("serving shapes on http://") {
        line.clear();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "it ended before it served");
    }
    let address = line.trim().rsplit("http://").next().unwrap().to_owned();
    std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
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
    let id = process.0.id().to_string();
    assert!(Command::new("sh").args(["-c", "kill -TERM $0", &id]).status().unwrap().success());
    let mut rest = String::new();
    socket.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("data: [DONE]"), "{rest}");
    assert!(!rest.contains("\"error\""), "{rest}");
    let give_up = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = process.0.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < give_up, "it did not end");
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(status.success(), "{status}");
    assert!(TcpStream::connect(&address).is_err(), "nobody listens any more");
}

#[test]
fn what_is_wrong_is_said_in_words() {
    let check = |args: &[&str], expect: &str| {
        let output = triptych(args).output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{args:?}");
        assert!(words.contains(expect), "{args:?} says {words:?}, not {expect:?}");
        assert!(!words.contains("panicked"), "{words}");
    };
    check(&["serve"], "--model-path");
    check(&["serve", "--model-path", "/nowhere"], "/nowhere");
    let model = demo_model();
    let model = model.to_str().unwrap();
    check(&["serve", "--model-path", model, "--roles", "e,p"], "--roles");
    check(&["serve", "--model-path", model, "--device", "cuda"], "CUDA");
    check(&["serve", "--model-path", model, "--override-engine-args", "{\"a\": 1}"], "unknown key");
}
