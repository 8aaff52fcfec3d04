//! How fast reads are between two processes of one machine, beside one stream of `iperf3` in the
//! same run: `cargo run --release -p transport-tcp --example time_reads`.
//!
//! The owner of the memory is this program too, run with the word `lend`.

use futures::executor::block_on;
use futures::{StreamExt, stream};
use planes::{
    Address, ClusterKey, Destination, LeaseTable, LeasedMemory, Region, RemoteHandle, Source,
    Transport,
};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use transport_tcp::{TcpConfig, start};
use types::{LeaseId, Secret};

/// Bytes lent, and room for what is read: more than the caches hold.
const N_LENT: usize = 256 << 20;

/// Bytes moved for each figure.
const N_BYTES_EACH: usize = 1 << 30;

/// Reads for each figure, at most: small ones need no gigabyte.
const N_READS_MAX: usize = 10_000;

const N_IN_FLIGHT: usize = 4;

fn main() {
    if std::env::args().any(|argument| argument == "lend") {
        block_on(lend());
    } else {
        block_on(measure());
    }
}

fn transport() -> Arc<dyn Transport> {
    let listen = ([127, 0, 0, 1], 0).into();
    start(TcpConfig { listen, advertise: None, key: ClusterKey::open() }).unwrap()
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
    let mut memory = vec![0_u8; N_LENT];
    let start = memory.as_mut_ptr() as usize;
    println!("iperf3 before: {}", iperf3());
    println!("|    bytes | alone, µs | alone, GB/s | {N_IN_FLIGHT} in flight, GB/s |");
    for n_bytes in (12..=28).step_by(2).map(|power| 1_usize << power) {
        let n_reads = (N_BYTES_EACH / n_bytes).min(N_READS_MAX);
        let seconds = |n_in_flight: usize| {
            let n_in_flight = n_in_flight.min(N_LENT / n_bytes);
            time(&*reader, &handle, start, n_bytes, (n_reads, n_in_flight))
        };
        seconds(1).await;
        let (alone, together) = (seconds(1).await, seconds(N_IN_FLIGHT).await);
        let gb = (n_bytes * n_reads) as f64 / 1e9;
        let (each_us, n_gbps) = (alone / n_reads as f64 * 1e6, gb / alone);
        println!("|{n_bytes:>9} |{each_us:>10.1} |{n_gbps:>12.2} |{:>18.2} |", gb / together);
    }
    println!("iperf3 after: {}", iperf3());
    assert!((0..N_LENT).all(|idx| memory[idx] == byte(idx)), "wrong bytes");
    drop(owner.stdin.take());
    owner.wait().unwrap();
}

/// Seconds for so many reads, so many at a time; each takes the next stretch of the memory.
async fn time(
    reader: &dyn Transport,
    from: &RemoteHandle,
    start: usize,
    n_bytes: usize,
    (n_reads, n_in_flight): (usize, usize),
) -> f64 {
    let read = |i| {
        let offset = i * n_bytes % N_LENT;
        // SAFETY: the stretch lies in our memory, which outlives all reads, and stretches
        // of reads in flight differ.
        let region = unsafe { Region::new((start as *mut u8).add(offset), n_bytes) };
        let into = Destination { regions: vec![region], keep: Box::new(()) };
        reader.read(from.clone(), vec![Source { region_idx: 0, offset }], into)
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
