//! Strangers who reach the ports of a cluster harm nobody; and a cluster that lacks a role says
//! which.

mod common;

use common::cluster::{Cluster, Meeting, Role, post_chat, program};
use common::crowd::{Asker, Load};
use common::demo_model;
use common::fleet::{Fleet, Turn, Worker, put_instance, sheet};
use common::folder::Folder;
use common::questions::{Question, questions, two_samples};
use common::servers::are_installed;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const N_CLIENTS: usize = 4;

const RELEASE_TIME: Duration = Duration::from_secs(3);

/// Strangers at each port who say nothing: more than there is room for.
const N_SILENT: usize = 70;

/// A stranger who says nothing is shown the door within this time.
const STRANGER_TIME: Duration = Duration::from_secs(10);

/// Bytes of no protocol.
fn garbage(n_bytes: usize) -> Vec<u8> {
    (0..n_bytes).map(|idx| (idx * 167 + idx / 251) as u8).collect()
}

#[test]
fn strangers_harm_nobody() {
    if !are_installed() {
        return;
    }
    let _turn = Turn::beside_others();
    let sheet = sheet(questions(10));
    let folder = Folder::new("strangers");
    let [ours, theirs] = ["ours", "theirs"]
        .map(|name| folder.write(name, &format!("a secret of at least 32 bytes, called {name}")));
    let key = ["--cluster-key-file", &ours];
    let Some(fleet) = Fleet::start("auto", "epd", &key) else { return };
    let load = Load::start(&fleet.url, &sheet, N_CLIENTS);
    load.expect_more(N_CLIENTS);
    let places: Vec<String> = fleet.workers.iter().flat_map(Worker::memory).collect();
    std::thread::scope(|scope| {
        places.iter().for_each(|place| drop(scope.spawn(|| knock_at_memory(place))));
    });
    fleet.workers.iter().for_each(|worker| shout_at_address(&fleet, &worker.address()));
    load.expect_more(N_CLIENTS);
    pretend_instances(&fleet);
    load.expect_more(3 * N_CLIENTS);
    // A frontend that knows no card yet must find the right one among the pretended.
    let late = fleet.cluster.role("frontend", &key);
    late.expect_health();
    sheet.check(&[Asker::new(&late.url()).time(1, &sheet.questions[1])]);
    another_key_is_noticed_at_once(&fleet, &["--cluster-key-file", &theirs]);
    let asked = load.finish();
    let slowest = sheet.check(&asked);
    println!("{} answers beside the strangers, slowest {slowest:.2?}", asked.len());
    fleet.expect_all_alive();
    fleet.expect_idle(RELEASE_TIME);
}

/// Who has another key finds nobody, says why before the first request, and is told by a check.
fn another_key_is_noticed_at_once(fleet: &Fleet, other: &[&str]) {
    let stranger = fleet.cluster.role("frontend", other);
    stranger.process.expect_line("has another cluster key");
    stranger.expect_lack("no worker has registered");
    let late = fleet.cluster.role("decode-worker", other);
    late.process.expect_line("has another cluster key");
    let Meeting { etcd_url, nats_url, .. } = &fleet.cluster.place;
    let mut check = program("triptych");
    check.args(["check", "--for", "decode-worker", "--model-path"]).arg(demo_model());
    check.args(["--etcd-endpoints", etcd_url, "--nats-url", nats_url]);
    let checked = check.args(other).output().unwrap();
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(!checked.status.success(), "{said}");
    let line = said.lines().find(|line| line.starts_with("FAIL  cluster key"));
    assert!(line.is_some_and(|line| line.contains("--cluster-key-file")), "{said}");
}

/// Connects to a port of a worker's memory and says wrong things, or nothing.
fn knock_at_memory(address: &str) {
    let (_, rest) = address.split_once("://").unwrap();
    let peer = rest.split('/').next().unwrap();
    let connect = || {
        let socket = TcpStream::connect(peer).unwrap();
        socket.set_read_timeout(Some(STRANGER_TIME)).unwrap();
        socket.set_write_timeout(Some(STRANGER_TIME)).unwrap();
        socket
    };
    let lengths = [1, 100, 100_000].into_iter().chain(std::iter::repeat_n(0, N_SILENT));
    let sockets = lengths.map(|n_bytes| {
        let mut socket = connect();
        // It may be closed before all is written.
        let _ = socket.write_all(&garbage(n_bytes));
        socket
    });
    let sockets: Vec<TcpStream> = sockets.collect();
    sockets.into_iter().for_each(|socket| expect_closed(socket, address));
}

/// Reads whatever the other side says until it hangs up, which it must.
fn expect_closed(mut socket: TcpStream, address: &str) {
    let mut said = Vec::new();
    let end = socket.read_to_end(&mut said);
    let is_open = end.is_err_and(|error| {
        [std::io::ErrorKind::WouldBlock, std::io::ErrorKind::TimedOut].contains(&error.kind())
    });
    assert!(!is_open, "a stranger may stay at {address}");
    assert!(said.len() < 1000, "a stranger is told {} bytes at {address}", said.len());
}

/// Publishes garbage where a worker takes calls, and waits until NATS has taken it.
fn shout_at_address(fleet: &Fleet, address: &str) {
    let peer = fleet.cluster.place.nats_url.strip_prefix("nats://").unwrap();
    let mut nats = TcpStream::connect(peer).unwrap();
    nats.set_read_timeout(Some(STRANGER_TIME)).unwrap();
    let mut message = b"CONNECT {\"verbose\":false}\r\n".to_vec();
    for n_bytes in [0, 1, 17, 18, 1000, 100_000] {
        for first in [0, 1, 2] {
            let mut bytes = garbage(n_bytes);
            if let Some(version) = bytes.first_mut() {
                *version = first;
            }
            message.extend(format!("PUB {address} nowhere {n_bytes}\r\n").bytes());
            message.extend(bytes);
            message.extend(b"\r\n");
        }
    }
    message.extend(b"PING\r\n");
    nats.write_all(&message).unwrap();
    let mut said = String::new();
    let mut piece = [0; 4096];
    while !said.contains("PONG") {
        let n_bytes = nats.read(&mut piece).unwrap();
        assert!(n_bytes > 0, "NATS hung up: {said}");
        said.push_str(&String::from_utf8_lossy(&piece[..n_bytes]));
    }
}

/// Registers what is no instance, and instances that nobody is.
fn pretend_instances(fleet: &Fleet) {
    let place = &fleet.cluster.place;
    let nobody = "dynamo.backend.generate.00000000000000000000000000000001";
    let id = |number: u8| format!("{number:032x}");
    for (number, value) in [(1, "no JSON"), (2, "{}"), (3, r#"{"version": 99}"#), (4, "[[[[")] {
        put_instance(place, &id(number), value);
    }
    put_instance(place, "no-id", "nothing");
    put_instance(place, &"f".repeat(100), "nothing");
    // The real decode worker's record, with another address: whoever believes it finds nobody.
    let real = fleet.instances().into_iter().find(|found| found["stages"] == json!(["decode"]));
    let real = real.expect("a decode worker");
    let with = |number: u8, changes: &[(&str, Value)]| {
        let mut record = real.clone();
        record["id"] = json!(id(number));
        record["address"] = json!(nobody);
        changes.iter().for_each(|(field, value)| record[*field] = value.clone());
        put_instance(place, &id(number), &record.to_string());
    };
    with(10, &[]);
    with(11, &[("address", json!("")), ("transports", json!(["ucx://nowhere", "x", ""]))]);
    with(12, &[("address", json!("a.>.*\r\n")), ("stages", json!(["prefill", "fly"]))]);
    let all = json!(["encode", "prefill", "decode"]);
    with(13, &[("card", json!("0".repeat(64))), ("stages", all.clone())]);
    with(14, &[("model", json!("another")), ("card", json!("f".repeat(64))), ("stages", all)]);
    with(
        15,
        &[(
            "kv",
            json!({"block_size": 0, "n_layers": 0, "n_kv_heads": 0, "head_dim": 0,
                             "dtype": ""}),
        )],
    );
}

#[test]
fn a_role_that_is_missing_is_named() {
    if !are_installed() {
        return;
    }
    let _turn = Turn::beside_others();
    let [picture, _] = two_samples();
    let text: Question = questions(1).remove(0);
    for (letters, missing, text_too) in
        [("pd", "encode", false), ("ed", "prefill", true), ("ep", "decode", true)]
    {
        let Some(cluster) = Cluster::start("tcp") else { return };
        let start = |letter| Worker::start(&cluster.place, letter, &[]);
        let workers: Vec<Worker> = letters.chars().map(start).collect();
        let frontend: Role = cluster.role("frontend", &[]);
        workers.iter().for_each(|worker| worker.role.expect_health());
        let words = format!("no {missing} worker");
        frontend.expect_lack(&words);
        let url = frontend.url();
        let (status, health) = common::cluster::get(&format!("{url}/health")).unwrap();
        assert_eq!((status, health.contains(&words)), (503, true), "{health}");
        let (status, body) = post_chat(&url, &picture.body);
        assert_eq!((status, body.to_string().contains(&words)), (503, true), "{letters}: {body}");
        let (status, body) = post_chat(&url, &text.body);
        assert_eq!(status, if text_too { 503 } else { 200 }, "{letters}: {body}");
    }
}
