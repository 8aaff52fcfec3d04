//! How fast reads over UCX are between two processes of one machine, beside UCX's own
//! `ucx_perftest -t tag_bw -e` with the same settings:
//! `cargo run --release -p transport-ucx --example time_ucx`.
//!
//! One read alone is compared with one message at a time (`-O 1`), several in flight with as many
//! messages. That program sends all messages from one place to one place; our reads in flight are
//! from one place, each to a place of its own.

use planes::measure::{Rival, main as measure};
use planes::{ClusterKey, Transport};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use transport_ucx::{UcxConfig, start};

/// Names the program to compare with, for a UCX that is not the system's.
const PERFTEST_VARIABLE: &str = "TRIPTYCH_UCX_PERFTEST";

/// What the transport sets, and the program to compare with must be told.
const SETTINGS: [(&str, &str); 6] = [
    ("UCX_CMA_MEMORY_INVALIDATE", "y"),
    ("UCX_MM_ERROR_HANDLING", "y"),
    ("UCX_MM_FIFO_SIZE", "256"),
    ("UCX_RNDV_SCHEME", "get_zcopy"),
    ("UCX_TCP_PUT_ENABLE", "n"),
    ("UCX_MEM_EVENTS", "n"),
];

/// Bytes that the program to compare with moves in one turn.
const N_BYTES_EACH: usize = 2 << 30;

/// Messages in one turn, at least and at most.
const N_MESSAGES: std::ops::RangeInclusive<usize> = 20..=10_000;

/// Longest time that the program to compare with takes to begin and to end.
const TURN_MAX: Duration = Duration::from_secs(20);

fn main() {
    measure(transport, &Rival { name: "ucx_perftest", rate: &perftest });
}

fn transport() -> Arc<dyn Transport> {
    let listen = ([127, 0, 0, 1], 0).into();
    start(UcxConfig { listen, advertise: None, key: ClusterKey::open() }).unwrap()
}

fn perftest(n_bytes: usize, n_at_a_time: usize) -> Option<f64> {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let command = || command(n_bytes, n_at_a_time, port);
    let mut server = command().stdout(Stdio::null()).spawn().ok()?;
    let give_up = Instant::now() + TURN_MAX;
    let rate = loop {
        // It fails while the server does not listen yet.
        let output = command().arg("localhost").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let rate = said.lines().rev().find_map(overall_rate);
        if rate.is_some() || Instant::now() > give_up {
            break rate;
        }
    };
    let _ = server.kill();
    server.wait().unwrap();
    rate
}

fn command(n_bytes: usize, n_at_a_time: usize, port: u16) -> Command {
    let program = std::env::var(PERFTEST_VARIABLE).unwrap_or_else(|_| "ucx_perftest".into());
    let n_messages = (N_BYTES_EACH / n_bytes).clamp(*N_MESSAGES.start(), *N_MESSAGES.end());
    let mut command = Command::new(program);
    for (variable, value) in SETTINGS {
        if std::env::var_os(variable).is_none() {
            command.env(variable, value);
        }
    }
    command.args(["-t", "tag_bw", "-e", "-f", "-w", "20"]);
    let numbers = [("-s", n_bytes), ("-n", n_messages), ("-O", n_at_a_time), ("-p", port.into())];
    for (flag, number) in numbers {
        command.arg(flag).arg(number.to_string());
    }
    command.stdin(Stdio::null()).stderr(Stdio::null());
    command
}

/// The rate in the last line that the program prints, whose megabytes are of 2^20 bytes.
fn overall_rate(line: &str) -> Option<f64> {
    let numbers: Vec<f64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    (numbers.len() >= 8).then(|| numbers[5] * f64::from(1 << 20) / 1e9)
}
