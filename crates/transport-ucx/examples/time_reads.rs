//! How fast reads are between two processes of one machine, beside UCX's own `ucx_perftest` in the
//! same run and with the same settings:
//! `cargo run --release -p transport-ucx --example time_reads`.
//!
//! The owner of the memory is this program too, run with the word `lend`.

use futures::StreamExt;
use futures::executor::block_on;
use futures::stream::FuturesUnordered;
use planes::{
    Address, ClusterKey, Destination, LeaseTable, LeasedMemory, Region, RemoteHandle, Source,
    Transport,
};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use transport_ucx::{UcxConfig, check, start};
use types::{LeaseId, Secret};

const SIZES: [usize; 8] =
    [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20];

/// Bytes lent: as many as the longest read takes.
const N_LENT: usize = SIZES[SIZES.len() - 1];

/// Reads under way at a time, at most.
const N_IN_FLIGHT: usize = 16;

/// Bytes of all reads under way at a time, beyond which there are fewer of them.
const IN_FLIGHT_BYTES_MAX: usize = 256 << 20;

/// How long one figure takes.
const WINDOW: Duration = Duration::from_millis(500);

/// Names the program to compare with, for a UCX that is not the system's.
const PERFTEST_VARIABLE: &str = "TRIPTYCH_UCX_PERFTEST";

/// What the transport sets, and the program to compare with must be told.
const PERFTEST_SETTINGS: [(&str, &str); 5] = [
    ("UCX_CMA_MEMORY_INVALIDATE", "y"),
    ("UCX_MM_ERROR_HANDLING", "y"),
    ("UCX_MM_FIFO_SIZE", "256"),
    ("UCX_RNDV_SCHEME", "get_zcopy"),
    ("UCX_MEM_EVENTS", "n"),
];

/// Bytes that the program to compare with moves for one figure.
const N_PERFTEST_BYTES: usize = 2 << 30;

/// Longest time that the program to compare with takes to begin and to end.
const PERFTEST_MAX: Duration = Duration::from_secs(20);

fn main() {
    if std::env::args().any(|argument| argument == "lend") {
        block_on(lend());
    } else {
        block_on(measure());
    }
}

fn transport() -> Arc<dyn Transport> {
    let listen = ([127, 0, 0, 1], 0).into();
    start(UcxConfig { listen, advertise: None, key: ClusterKey::open() }).unwrap()
}

fn byte(idx: usize) -> u8 {
    (idx * 31 + idx / 257) as u8
}

/// Lends until nobody holds the other end of the standard input.
async fn lend() {
    let mut bytes: Vec<u8> = (0..N_LENT).map(byte).collect();
    // SAFETY: the vector is moved beside the region and never touched again.
    let region = unsafe { Region::new(bytes.as_mut_ptr(), N_LENT) };
    let memory = LeasedMemory { regions: vec![region], keep: Box::new(bytes) };
    let (transport, table) = (transport(), Arc::new(LeaseTable::default()));
    let (addresses, _served) = transport.serve(Arc::clone(&table)).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(3600);
    let (lease, secret) = table.grant(memory, deadline).unwrap();
    println!("{} {} {} {}", addresses[0], lease.slot, lease.generation, secret.0);
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// Starts the other process, and says what it lends.
fn start_owner() -> (Child, RemoteHandle) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .arg("lend")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [address, slot, generation, secret] = fields[..] else { panic!("said {line}") };
    let lease = LeaseId { slot: slot.parse().unwrap(), generation: generation.parse().unwrap() };
    let handle = RemoteHandle {
        owner: Address("none".into()),
        transports: vec![address.into()],
        lease,
        secret: Secret(secret.parse().unwrap()),
    };
    (child, handle)
}

async fn measure() {
    let (mut owner, handle) = start_owner();
    let reader = transport();
    println!("{}", check().unwrap());
    println!("| bytes | alone, µs | alone, GB/s | in flight | GB/s | ucx_perftest, GB/s | share |");
    println!("|--:|--:|--:|--:|--:|--:|--:|");
    for n_bytes in SIZES {
        let n_in_flight = (IN_FLIGHT_BYTES_MAX / n_bytes).min(N_IN_FLIGHT);
        let alone = rate(&*reader, &handle, n_bytes, 1).await;
        let together = rate(&*reader, &handle, n_bytes, n_in_flight).await;
        let alone_us = n_bytes as f64 / alone / 1e3;
        let (theirs, share) = match perftest(n_bytes) {
            Some(theirs) => (format!("{theirs:.2}"), format!("{:.0} %", 100.0 * together / theirs)),
            None => ("not to be had (apt install ucx-utils)".into(), "–".into()),
        };
        println!(
            "| {n_bytes} | {alone_us:.1} | {alone:.2} | {n_in_flight} | {together:.2} | {theirs} \
             | {share} |"
        );
    }
    drop(owner.stdin.take());
    owner.wait().unwrap();
}

/// GB/s with so many reads of the first bytes under way, each into memory of its own.
async fn rate(
    reader: &dyn Transport,
    from: &RemoteHandle,
    n_bytes: usize,
    n_in_flight: usize,
) -> f64 {
    let read = |into| reader.read(from.clone(), vec![Source { region_idx: 0, offset: 0 }], into);
    let mut reads: FuturesUnordered<_> = (0..n_in_flight).map(|_| read(memory(n_bytes))).collect();
    // The first ones touch their memory for the first time.
    for _ in 0..2 * n_in_flight {
        let landed = reads.next().await.unwrap().unwrap();
        reads.push(read(landed));
    }
    let (begun, mut n_reads) = (Instant::now(), 0);
    while begun.elapsed() < WINDOW {
        let landed = reads.next().await.unwrap().unwrap();
        reads.push(read(landed));
        n_reads += 1;
    }
    let seconds = begun.elapsed().as_secs_f64();
    while let Some(landed) = reads.next().await {
        look_at(&landed.unwrap());
    }
    (n_reads * n_bytes) as f64 / seconds / 1e9
}

fn memory(n_bytes: usize) -> Destination {
    let mut memory = vec![0_u8; n_bytes];
    // SAFETY: the vector is moved beside the region and never touched.
    let region = unsafe { Region::new(memory.as_mut_ptr(), n_bytes) };
    Destination { regions: vec![region], keep: Box::new(memory) }
}

fn look_at(landed: &Destination) {
    let region = landed.regions[0];
    // SAFETY: the destination was given back and still keeps its memory, to which nobody writes.
    let bytes = unsafe { std::slice::from_raw_parts(region.ptr(), region.n_bytes()) };
    assert!(bytes.iter().enumerate().all(|(idx, found)| *found == byte(idx)), "wrong bytes");
}

/// GB/s that UCX's own program reaches with our settings: the better of two runs.
fn perftest(n_bytes: usize) -> Option<f64> {
    [perftest_once(n_bytes), perftest_once(n_bytes)].into_iter().flatten().reduce(f64::max)
}

fn perftest_once(n_bytes: usize) -> Option<f64> {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut server = perftest_command(n_bytes, port).stdout(Stdio::null()).spawn().ok()?;
    let give_up = Instant::now() + PERFTEST_MAX;
    let rate = loop {
        // It fails while the server does not listen yet.
        let output = perftest_command(n_bytes, port).arg("localhost").output().unwrap();
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

fn perftest_command(n_bytes: usize, port: u16) -> Command {
    let program = std::env::var(PERFTEST_VARIABLE).unwrap_or_else(|_| "ucx_perftest".into());
    let n_iterations = (N_PERFTEST_BYTES / n_bytes).clamp(20, 100_000);
    let mut command = Command::new(program);
    for (variable, value) in PERFTEST_SETTINGS {
        if std::env::var_os(variable).is_none() {
            command.env(variable, value);
        }
    }
    command.args(["-t", "tag_bw", "-e", "-f", "-w", "20"]);
    for (flag, number) in [("-p", port as usize), ("-s", n_bytes), ("-n", n_iterations)] {
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
