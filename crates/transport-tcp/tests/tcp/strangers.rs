//! Whoever connects without the key, says nonsense or does not read gets nothing and holds nothing.

use crate::common::{START, byte, handle, key, landed, landing, memory, transport, transport_with};
use planes::{ClusterKey, LeaseTable, RemoteHandle, Side, Source, Transport, Withdraw};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};
use types::ErrorKind;

/// Longest time that a stranger may keep a connection; twice the deadline, as its last byte may
/// come just before it.
const STRANGER_MAX: Duration = Duration::from_secs(5);

/// An owner that lends, and its `host:port`.
struct Lent {
    _owner: Arc<dyn Transport>,
    table: Arc<LeaseTable>,
    handle: RemoteHandle,
    peer: String,
    _served: Withdraw,
}

async fn lend(n_bytes: usize) -> Lent {
    let (owner, table) = (transport(), Arc::new(LeaseTable::default()));
    let (addresses, served) = owner.serve(Arc::clone(&table)).await.unwrap();
    let (peer, _) = addresses[0]["tcp://".len()..].split_once('/').unwrap();
    let peer = peer.to_owned();
    let grant = table.grant(memory(n_bytes), Instant::now() + Duration::from_secs(60)).unwrap();
    Lent { _owner: owner, table, handle: handle(addresses, grant), peer, _served: served }
}

impl Lent {
    fn dial(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.peer).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// A connection that has proved itself.
    fn dial_as_a_peer(&self) -> TcpStream {
        let mut stream = self.dial();
        planes::authenticate(&mut stream, &key(), Side::Connecting).unwrap();
        stream
    }

    async fn is_served(&self, reader: &Arc<dyn Transport>) -> bool {
        reader.read(self.handle.clone(), vec![START], landing(100)).await.is_ok()
    }
}

/// How long until the other side closes; what it says before does not matter.
fn until_closed(stream: &mut TcpStream) -> Duration {
    let since = Instant::now();
    let mut some = [0; 4096];
    while matches!(stream.read(&mut some), Ok(n_bytes) if n_bytes > 0) {}
    since.elapsed()
}

#[tokio::test]
async fn another_key_is_forbidden_on_both_ways() {
    let lent = lend(1000).await;
    let other = ClusterKey::from_bytes(b"the key of another cluster").unwrap();
    for stranger in [transport_with(other), transport_with(ClusterKey::open())] {
        let failure = stranger.connect(&lent.handle.transports).await.unwrap_err();
        assert_eq!(failure.kind, ErrorKind::Forbidden, "{failure}");
        let read = stranger.read(lent.handle.clone(), vec![START], landing(100));
        assert_eq!(read.await.err().unwrap().kind, ErrorKind::Forbidden);
    }
    assert!(lent.is_served(&transport()).await);
}

#[tokio::test]
async fn nonsense_ends_a_connection() {
    let lent = lend(1000).await;
    let mut stranger = lent.dial();
    stranger.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    assert!(until_closed(&mut stranger) < Duration::from_secs(1));
    // A request of a peer with another mark, and one with more sources than any has.
    let too_many = [&b"RD\x00\x01"[..], &[0xFF; 44]].concat();
    for nonsense in [vec![0xAB; 48], too_many] {
        let mut peer = lent.dial_as_a_peer();
        peer.write_all(&nonsense).unwrap();
        assert!(until_closed(&mut peer) < Duration::from_secs(1));
    }
    assert!(lent.is_served(&transport()).await);
}

/// Strangers who are silent, or send a byte now and then, lose their places after a deadline, and
/// hold up neither peers that were known before nor new ones.
#[tokio::test]
async fn slow_strangers_lose_their_places() {
    let lent = lend(1000).await;
    let reader = transport();
    assert!(lent.is_served(&reader).await);
    let strangers: Vec<TcpStream> = (0..100).map(|_| lent.dial()).collect();
    let dripping = strangers[0].try_clone().unwrap();
    let drip = std::thread::spawn(move || {
        let mut dripping = dripping;
        while dripping.write_all(b"t").is_ok() {
            std::thread::sleep(Duration::from_millis(300));
        }
    });
    assert!(lent.is_served(&reader).await);
    assert!(lent.is_served(&transport()).await, "a peer finds room at once");
    let since = Instant::now();
    for mut stranger in strangers {
        until_closed(&mut stranger);
    }
    assert!(since.elapsed() < STRANGER_MAX, "{:?}", since.elapsed());
    drip.join().unwrap();
    assert!(lent.is_served(&transport()).await, "there is room again");
}

/// A peer that asks for much and reads nothing loses its connection, and the memory is let go of.
#[tokio::test]
async fn whoever_does_not_read_does_not_hold_memory_for_long() {
    const N_BYTES: usize = 64 << 20;
    let lent = lend(N_BYTES).await;
    let (lease, secret) = (lent.handle.lease, lent.handle.secret);
    let kept = lent.table.pin(lease, secret).unwrap();
    let (_, table) = lent.handle.transports[0].rsplit_once('/').unwrap();
    let mut request = b"RD\x00\x01\x01\x00\x00\x00".to_vec();
    request.extend(u128::from_str_radix(table, 16).unwrap().to_le_bytes());
    request.extend(lease.slot.to_le_bytes());
    request.extend(lease.generation.to_le_bytes());
    request.extend(secret.0.to_le_bytes());
    request.extend([0_u64, 0, N_BYTES as u64].map(u64::to_le_bytes).concat());
    let mut peer = lent.dial_as_a_peer();
    peer.write_all(&request).unwrap();
    let mut head = [0; 16];
    peer.read_exact(&mut head).unwrap();
    assert_eq!(head[8..], (N_BYTES as u64).to_le_bytes());
    lent.table.release(lease, secret);
    let since = Instant::now();
    assert_eq!(Arc::strong_count(&kept), 2, "ours and the send's");
    while Arc::strong_count(&kept) > 1 {
        assert!(since.elapsed() < Duration::from_secs(9), "the memory is still held");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Reads of many sources, whose requests are larger than the buffers on the way, do not lock up
/// with the answers that come the other way.
#[tokio::test]
async fn large_requests_and_large_answers_pass_each_other() {
    const N_SOURCES: usize = 60_000;
    const N_BYTES: usize = 1 << 20;
    let lent = lend(N_BYTES).await;
    let reader = transport();
    let read = |_| {
        let mut bytes = vec![0xAA_u8; N_SOURCES * 100];
        let start = bytes.as_mut_ptr();
        // SAFETY: each part lies in the vector, which is moved beside the regions.
        let part = |i| unsafe { planes::Region::new(start.add(i * 100), 100) };
        let regions = (0..N_SOURCES).map(part).collect();
        let offset = |i: usize| i * 17 % (N_BYTES - 100);
        let sources = (0..N_SOURCES).map(|i| Source { region_idx: 0, offset: offset(i) }).collect();
        let into = planes::Destination { regions, keep: Box::new(bytes) };
        let read = reader.read(lent.handle.clone(), sources, into);
        async move {
            let bytes = landed(read.await.unwrap());
            for (i, part) in bytes.chunks(100).enumerate() {
                assert!(part.iter().zip(offset(i)..).all(|(&it, at)| it == byte(at)));
            }
        }
    };
    futures::future::join_all((0..8).map(read)).await;
}
