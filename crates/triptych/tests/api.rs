//! The real program's API as operators set it up: keys, a certificate, logs for programs, and its
//! end.

mod common;

use common::cluster::program;
use common::demo_model;
use common::folder::Folder;
use common::process::{Process, Signal};
use serde_json::Value;

/// The program with a model whose answers cost nothing.
fn serve(flags: &[&str]) -> Process {
    let mut command = program("triptych");
    command.args(["serve", "--http-host", "127.0.0.1", "--http-port", "0", "--engine", "mock"]);
    Process::spawn("triptych", command.arg("--model-path").arg(demo_model()).args(flags))
}

fn address_of(process: &Process) -> String {
    let line = process.expect_line("serving shapes on http");
    line.trim().rsplit("serving shapes on ").next().unwrap().to_owned()
}

fn get(url: &str, key: Option<&str>) -> (u16, Value) {
    let config = ureq::Agent::config_builder().http_status_as_error(false).proxy(None);
    let mut asking = config.build().new_agent().get(url);
    if let Some(key) = key {
        asking = asking.header("authorization", format!("Bearer {key}"));
    }
    let mut response = asking.call().unwrap();
    let text = response.body_mut().read_to_string().unwrap();
    (response.status().as_u16(), serde_json::from_str(&text).unwrap_or_default())
}

#[test]
fn with_keys_nobody_else_asks() {
    let folder = Folder::new("api-keys");
    let keys = folder.write("keys", "# ours\nsk-one\n");
    let process = serve(&["--api-key-file", &keys]);
    let url = address_of(&process);
    let models = format!("{url}/v1/models");
    let (status, body) = get(&models, None);
    assert_eq!((status, &body["error"]["code"]), (401, &"invalid_api_key".into()));
    assert_eq!(get(&models, Some("sk-two")).0, 401);
    let (status, body) = get(&models, Some("sk-one"));
    assert_eq!((status, &body["data"][0]["id"]), (200, &"shapes".into()));
    assert_eq!(get(&format!("{url}/health"), None).0, 200);
    assert!(!process.log().contains("sk-"), "{}", process.log());
}

#[test]
fn a_certificate_makes_it_https() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let folder = Folder::new("api-certificate");
    let certificate = folder.write("cert.pem", &made.cert.pem());
    let key = folder.write("key.pem", &made.signing_key.serialize_pem());
    let flags = ["--tls-cert-path", &certificate, "--tls-key-path", &key];
    let process = serve(&flags);
    assert!(address_of(&process).starts_with("https://127.0.0.1:"));
    let mut check = program("triptych");
    check.args(["check", "--http-port", "0", "--model-path"]).arg(demo_model()).args(flags);
    let found = String::from_utf8(check.output().unwrap().stdout).unwrap();
    assert!(found.contains("ok    certificate"), "{found}");
    let swapped = ["--tls-cert-path", &key, "--tls-key-path", &certificate];
    let mut refused = serve(&swapped);
    refused.expect_line("--tls-cert-path: expected certificates in PEM");
    assert!(!refused.expect_end().success());
}

#[test]
fn logs_for_programs_are_json() {
    let mut process = serve(&["--log-format", "json"]);
    process.expect_line("serving shapes on http");
    process.signal(Signal::Term);
    assert!(process.expect_end().success());
    let log = process.log();
    let lines: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let said = |words: &str| {
        lines.iter().any(|line| line["message"].as_str().is_some_and(|said| said.contains(words)))
    };
    assert!(said("serving shapes on http://") && said("stopping after SIGTERM"), "{log}");
    for line in &lines {
        assert!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
    }
}
