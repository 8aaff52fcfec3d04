//! How fast bytes move between two processes, beside UCX's own measurement in the same minute.

use crate::child::Process;
use crate::common::start;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use planes::{Destination, Region, RemoteHandle, Source, Transport};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SIZES: [usize; 8] =
    [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20];

/// How long one figure takes.
const WINDOW: Duration = Duration::from_millis(500);

/// Names the program to compare with, for a UCX that is not the system's.
const PERFTEST: &str = "TRIPTYCH_UCX_PERFTEST";

const PERFTEST_PORT: &str = "13337";

/// A table of sizes; run it alone, in release, with `--nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement; needs a quiet machine and ucx_perftest (ucx-utils)"]
async fn throughput() {
    let (_process, handle) = Process::owner();
    let reader = start();
    println!("{}", transport_ucx::check().unwrap());
    println!("| bytes | one at a time | | 16 in flight | | ucx_perftest tag_bw -e | share |");
    println!("|---|---|---|---|---|---|---|");
    for n_bytes in SIZES {
        let one = rate(&reader, &handle, n_bytes, 1).await;
        let many = rate(&reader, &handle, n_bytes, 16).await;
        let again = rate(&reader, &handle, n_bytes, 16).await;
        let many = many.max(again);
        let ucx = tokio::task::spawn_blocking(move || perftest(n_bytes)).await.unwrap();
        println!(
            "| {n_bytes} | {:.2} GB/s | {:.1} µs | {:.2} GB/s | {:.1} µs | {ucx:.2} GB/s | {:.0} % |",
            one,
            n_bytes as f64 / one / 1e3,
            many,
            n_bytes as f64 / many / 1e3,
            100.0 * many / ucx
        );
    }
}

/// GB/s with so many reads under way, each into a destination of its own.
async fn rate(
    reader: &Arc<dyn Transport>,
    handle: &RemoteHandle,
    n_bytes: usize,
    n_at_once: usize,
) -> f64 {
    let read = |into| reader.read(handle.clone(), vec![Source { region_idx: 0, offset: 0 }], into);
    let mut reads: FuturesUnordered<_> = (0..n_at_once).map(|_| read(landing(n_bytes))).collect();
    // The first ones touch their memory for the first time.
    for _ in 0..2 * n_at_once {
        let landed = reads.next().await.unwrap().unwrap();
        reads.push(read(landed));
    }
    let (begun, mut n_reads) = (Instant::now(), 0);
    while begun.elapsed() < WINDOW {
        let landed = reads.next().await.unwrap().unwrap();
        reads.push(read(landed));
        n_reads += 1;
    }
    (n_reads * n_bytes) as f64 / begun.elapsed().as_secs_f64() / 1e9
}

fn landing(n_bytes: usize) -> Destination {
    let mut memory = vec![0_u8; n_bytes];
    // SAFETY: the vector is moved beside the region and never touched.
    let region = unsafe { Region::new(memory.as_mut_ptr(), n_bytes) };
    Destination { regions: vec![region], keep: Box::new(memory) }
}

/// GB/s that UCX's own program reaches with our settings; the better of two runs.
fn perftest(n_bytes: usize) -> f64 {
    perftest_once(n_bytes).max(perftest_once(n_bytes))
}

fn perftest_once(n_bytes: usize) -> f64 {
    let program = std::env::var(PERFTEST).unwrap_or_else(|_| "ucx_perftest".into());
    let n_iterations = ((2 << 30) / n_bytes).clamp(20, 100_000).to_string();
    let command = || {
        let mut command = Command::new(&program);
        command.env("UCX_MM_ERROR_HANDLING", "y").env("UCX_RNDV_SCHEME", "get_zcopy");
        command.args(["-t", "tag_bw", "-e", "-f", "-w", "20", "-p", PERFTEST_PORT]);
        command.args(["-s", &n_bytes.to_string(), "-n", &n_iterations]);
        command.stdin(Stdio::null()).stderr(Stdio::null());
        command
    };
    let mut server = command().stdout(Stdio::null()).spawn().expect("ucx_perftest (ucx-utils)");
    let give_up = Instant::now() + Duration::from_secs(10);
    let mbytes_per_s = loop {
        // It fails while the server does not listen yet.
        let output = command().arg("localhost").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let last = text.lines().rev().find_map(|line| {
            let numbers: Vec<f64> =
                line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            (numbers.len() >= 8).then(|| numbers[5])
        });
        match last {
            Some(rate) => break rate,
            None => assert!(Instant::now() < give_up, "ucx_perftest does not answer: {text}"),
        }
    };
    server.wait().unwrap();
    // Its megabytes are of 2^20 bytes.
    mbytes_per_s * f64::from(1 << 20) / 1e9
}
