//! Strangers at the ports of a process that lends: those of the handshake, and those of UCX itself.

use crate::child::{N_LENT, Process};
use crate::common::{destination, start};
use planes::{RemoteHandle, Source};
use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// More than there is room for.
const N_SILENT: usize = 100;

/// A port of ours shows strangers the door within this time, those of the backlog as well.
const STRANGER_MAX: Duration = Duration::from_secs(10);

/// Bytes of no protocol.
fn garbage(n_bytes: usize) -> Vec<u8> {
    (0..n_bytes).map(|idx| (idx * 167 + idx / 251) as u8).collect()
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(STRANGER_MAX)).unwrap();
    stream.set_write_timeout(Some(STRANGER_MAX)).unwrap();
    stream
}

/// Where the handshake is.
fn address_of(handle: &RemoteHandle) -> SocketAddr {
    let (address, _) = handle.transports[0].rsplit_once('/').unwrap();
    address.strip_prefix("ucx://").unwrap().parse().unwrap()
}

/// Where a process listens, as the system tells it: `0100007F:1F90` is 127.0.0.1:8080.
fn addresses_of(process: u32) -> Vec<SocketAddr> {
    let links = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    let links = links.filter_map(|link| fs::read_link(link.ok()?.path()).ok());
    let sockets: HashSet<String> = links.map(|link| link.display().to_string()).collect();
    let table = fs::read_to_string(format!("/proc/{process}/net/tcp")).unwrap();
    let listening = table.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_listening = words.get(3) == Some(&"0A");
        let is_ours = sockets.contains(&format!("socket:[{}]", words.get(9)?));
        let (ip, port) = words[1].rsplit_once(':')?;
        let ip = Ipv4Addr::from(u32::from_str_radix(ip, 16).ok()?.to_le_bytes());
        let port = u16::from_str_radix(port, 16).ok()?;
        (is_listening && is_ours).then(|| (ip, port).into())
    });
    listening.collect()
}

/// A new reader, which needs a new pair, is served.
async fn expect_served(handle: &RemoteHandle) {
    let source = Source { region_idx: 0, offset: 0 };
    let into = destination(N_LENT);
    start().read(handle.clone(), vec![source], into).await.map(drop).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_who_say_nothing_keep_no_peer_out() {
    drop(start());
    let (_owner, handle) = Process::owner();
    let address = address_of(&handle);
    let _silent: Vec<TcpStream> = (0..N_SILENT).map(|_| connect(address)).collect();
    expect_served(&handle).await;
}

/// UCX's own listener knows no key. It must be out of strangers' reach; but what they are likely to
/// say there does not end the process.
#[tokio::test(flavor = "multi_thread")]
async fn garbage_at_every_port_harms_nobody() {
    drop(start());
    let (owner, handle) = Process::owner();
    let addresses = addresses_of(owner.id());
    println!("it listens at {addresses:?}");
    assert!(addresses.contains(&address_of(&handle)));
    let http = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec();
    let mut strangers = Vec::new();
    for address in addresses {
        let zeros = vec![0; 100];
        let told =
            [0, 1, 7, 8, 9, 100, 100_000].map(garbage).into_iter().chain([http.clone(), zeros]);
        for said in told {
            let mut stranger = connect(address);
            // It may be closed before all is written.
            let _ = stranger.write_all(&said);
            strangers.push(stranger);
        }
    }
    expect_served(&handle).await;
    drop(strangers);
    expect_served(&handle).await;
}
