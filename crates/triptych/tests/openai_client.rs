//! OpenAI's own clients, in Python and JavaScript, against the real program: `tests/run.sh`
//! installs them, the scripts under `tests/` make the calls.

mod common;

use common::cluster::program;
use common::demo_model;
use common::folder::Folder;
use common::process::Process;
use std::path::{Path, PathBuf};
use std::process::Command;

const KEY: &str = "sk-of-the-test";

/// A token each 50 ms: time enough to leave in the middle.
const SLOW: [&str; 6] =
    ["--engine", "mock", "--mock-step-us", "50000", "--max-inflight-requests", "1"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// What `tests/run.sh` installs into the target folder; `None` says why nothing is tested.
fn installed(file: &str) -> Option<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root().join("target"), PathBuf::from);
    let path = target.join("openai-client").join(file);
    if path.exists() {
        return Some(path);
    }
    let message = format!("no {}; tests/run.sh installs it", path.display());
    assert!(std::env::var_os("CI").is_none(), "{message}");
    println!("skipped: {message}");
    None
}

/// Serves the demo model; gives the process and its address.
fn serve(name: &str, flags: &[&str]) -> (Process, String) {
    let mut command = program("triptych");
    command.args(["serve", "--http-host", "127.0.0.1", "--http-port", "0", "--model-path"]);
    let process = Process::spawn(name, command.arg(demo_model()).args(flags));
    let line = process.expect_line("serving shapes on http");
    let url = line.trim().rsplit("serving shapes on ").next().unwrap().to_owned();
    (process, url)
}

/// Starts the servers and then `command` with their addresses.
fn check(name: &str, command: &mut Command) {
    let folder = Folder::new(name);
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let ca = folder.write("cert.pem", &made.cert.pem());
    let private = folder.write("key.pem", &made.signing_key.serialize_pem());
    let keys = folder.write("keys", &format!("# of the test\n{KEY}\n"));
    let samples = demo_model().join("samples");
    let (_main, url) = serve(
        "main",
        &[
            "--allowed-local-media-path",
            samples.to_str().unwrap(),
            "--allowed-media-networks",
            "127.0.0.1",
            "--max-file-size-mb",
            "2",
        ],
    );
    let (_slow, slow_url) = serve("slow", &SLOW);
    let secured = ["--api-key-file", &keys, "--tls-cert-path", &ca, "--tls-key-path", &private];
    let (_secured, secured_url) = serve("secured", &secured);
    assert!(secured_url.starts_with("https://"), "{secured_url}");
    command.args(["--url", &url, "--slow-url", &slow_url, "--secured-url", &secured_url]);
    command.args(["--key", KEY, "--ca", &ca]).env("NO_PROXY", "127.0.0.1");
    // Node takes further authorities from here alone.
    let output = command.env("NODE_EXTRA_CA_CERTS", &ca).output().unwrap();
    let words = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    println!("{}", words.concat());
    assert!(output.status.success(), "{}", words.concat());
    assert!(words[0].contains(", 0 failed"), "all calls were made");
}

#[test]
fn the_python_client() {
    if let Some(python) = installed("bin/python") {
        check("python", Command::new(python).arg(root().join("tests/openai_client.py")));
    }
}

#[test]
fn the_javascript_client() {
    if let Some(modules) = installed("node_modules/openai") {
        let script = root().join("tests/openai_client.mjs");
        // The client is found from where the script stands, or by name; it stands elsewhere.
        check("javascript", Command::new("node").arg(script).env("OPENAI_FOLDER", modules));
    }
}
