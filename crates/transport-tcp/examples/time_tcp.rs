//! How fast reads over TCP are between two processes of one machine, beside one stream of
//! `iperf3`: `cargo run --release -p transport-tcp --example time_tcp`.
//!
//! That program knows neither messages nor how many are under way; its one stream is compared with
//! one read alone and with several in flight.

use planes::measure::{Rival, main as measure};
use planes::{ClusterKey, Transport};
use std::process::{Command, Stdio};
use std::sync::Arc;
use transport_tcp::{TcpConfig, start};

/// How much `iperf3` moves in one turn.
const EACH: &str = "2G";

/// Times that it is begun before its server listens.
const N_BEGINNINGS_MAX: usize = 50;

fn main() {
    measure(transport, &Rival { name: "iperf3", rate: &|_, _| iperf3() });
}

fn transport() -> Arc<dyn Transport> {
    let listen = ([127, 0, 0, 1], 0).into();
    start(TcpConfig { listen, advertise: None, key: ClusterKey::open() }).unwrap()
}

/// GB/s of one stream.
fn iperf3() -> Option<f64> {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let port = port.to_string();
    let server = ["-s", "-1", "-p", &port];
    let mut server = Command::new("iperf3").args(server).stdout(Stdio::null()).spawn().ok()?;
    let client = ["-c", "127.0.0.1", "-p", &port, "-n", EACH, "-f", "g", "-i", "0"];
    let run = || Command::new("iperf3").args(client).output().unwrap();
    let mut runs = std::iter::repeat_with(run).take(N_BEGINNINGS_MAX);
    let said = runs.find(|output| output.status.success());
    let _ = server.kill();
    server.wait().unwrap();
    let said = String::from_utf8(said.expect("iperf3 runs").stdout).unwrap();
    let line = said.lines().find(|line| line.ends_with("receiver")).expect("a receiver's line");
    let words: Vec<&str> = line.split_whitespace().collect();
    let unit = words.iter().position(|word| *word == "Gbits/sec").expect("a rate");
    let gbits: f64 = words[unit - 1].parse().unwrap();
    Some(gbits / 8.0)
}
