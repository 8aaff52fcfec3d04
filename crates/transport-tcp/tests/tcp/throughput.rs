//! How fast reads are between two processes of one machine, beside `iperf3` in the same run.
//!
//! `cargo nextest run --release -p transport-tcp --run-ignored only throughput --no-capture`

use crate::common::{byte, transport};
use crate::process::OwnerProcess;
use futures::{StreamExt, stream};
use planes::{Destination, Region, Source, Transport};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Bytes lent, and room for what is read: more than the caches hold.
const N_LENT: usize = 256 << 20;

/// Bytes moved for each figure.
const N_BYTES_EACH: usize = 1 << 30;

/// Reads for each figure, at most: small ones need no gigabyte.
const N_READS_MAX: usize = 10_000;

const N_IN_FLIGHT: usize = 4;

#[tokio::test]
#[ignore = "a measurement"]
async fn throughput() {
    let owner = OwnerProcess::start(N_LENT);
    let reader = transport();
    let mut memory = vec![0_u8; N_LENT];
    let start = memory.as_mut_ptr() as usize;
    println!("\niperf3 before: {}", iperf3());
    println!("|    bytes | alone, µs | alone, GB/s | {N_IN_FLIGHT} in flight, GB/s |");
    for n_bytes in (12..=28).step_by(2).map(|power| 1_usize << power) {
        let n_reads = (N_BYTES_EACH / n_bytes).min(N_READS_MAX);
        let seconds = |n_in_flight: usize| {
            let n_in_flight = n_in_flight.min(N_LENT / n_bytes);
            time(&*reader, &owner, start, n_bytes, (n_reads, n_in_flight))
        };
        seconds(1).await;
        let (alone, together) = (seconds(1).await, seconds(N_IN_FLIGHT).await);
        let gb = (n_bytes * n_reads) as f64 / 1e9;
        let (each_us, n_gbps) = (alone / n_reads as f64 * 1e6, gb / alone);
        println!("|{n_bytes:>9} |{each_us:>10.1} |{n_gbps:>12.2} |{:>18.2} |", gb / together);
    }
    println!("iperf3 after: {}", iperf3());
    assert!(memory[..N_LENT].iter().enumerate().all(|(idx, &it)| it == byte(idx)));
}

/// Seconds for so many reads, so many at a time; each takes the next stretch of the memory.
async fn time(
    reader: &dyn Transport,
    owner: &OwnerProcess,
    start: usize,
    n_bytes: usize,
    (n_reads, n_in_flight): (usize, usize),
) -> f64 {
    let read = |i| {
        let offset = i * n_bytes % N_LENT;
        // SAFETY: the stretch lies in the test's memory, which outlives all reads, and stretches
        // of reads in flight differ.
        let region = unsafe { Region::new((start as *mut u8).add(offset), n_bytes) };
        let into = Destination { regions: vec![region], keep: Box::new(()) };
        reader.read(owner.handle.clone(), vec![Source { region_idx: 0, offset }], into)
    };
    let since = Instant::now();
    let mut reads = stream::iter(0..n_reads).map(read).buffer_unordered(n_in_flight);
    while let Some(outcome) = reads.next().await {
        outcome.unwrap();
    }
    since.elapsed().as_secs_f64()
}

/// What one stream of `iperf3` reaches here, in words.
fn iperf3() -> String {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let port = port.to_string();
    let server =
        Command::new("iperf3").args(["-s", "-1", "-p", &port]).stdout(Stdio::null()).spawn();
    let Ok(mut server) = server else { return "not installed (apt install iperf3)".into() };
    let client = ["-c", "127.0.0.1", "-p", &port, "-t", "3", "-f", "g", "-i", "0"];
    let run = || Command::new("iperf3").args(client).output().unwrap();
    let said = std::iter::repeat_with(run).take(20).find(|output| output.status.success());
    let _ = server.kill();
    server.wait().unwrap();
    let said = String::from_utf8(said.expect("iperf3 runs").stdout).unwrap();
    let line = said.lines().find(|line| line.ends_with("receiver")).expect("a receiver's line");
    let words: Vec<&str> = line.split_whitespace().collect();
    let unit = words.iter().position(|word| *word == "Gbits/sec").expect("a rate");
    let gbits: f64 = words[unit - 1].parse().unwrap();
    format!("{:.2} GB/s", gbits / 8.0)
}
