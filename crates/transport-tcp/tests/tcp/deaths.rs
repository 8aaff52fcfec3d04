//! Owners that die, stand still or go away: reads end soon, and never with wrong bytes.

use crate::common::{START, byte, handle, key, landed, landing, memory, transport};
use crate::process::{OwnerProcess, was_owner};
use futures::future::join_all;
use planes::{LeaseTable, Side, Transport};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};
use types::{ErrorKind, LeaseId, Secret};

/// Owners are killed while several reads are under way, at ever other moments.
#[tokio::test]
async fn a_killed_owner_loses_its_reads_soon_and_brings_no_wrong_bytes() {
    const TEST: &str = "deaths::a_killed_owner_loses_its_reads_soon_and_brings_no_wrong_bytes";
    const N_BYTES: usize = 32 << 20;
    if was_owner().await {
        return;
    }
    let expected: Vec<u8> = (0..N_BYTES).map(byte).collect();
    let reader = transport();
    let mut n_lost = 0;
    for round in 0..12 {
        let mut owner = OwnerProcess::start(TEST, N_BYTES);
        reader.connect(&owner.handle.transports).await.unwrap();
        let read = |_| reader.read(owner.handle.clone(), vec![START], landing(N_BYTES));
        let reads: Vec<_> = (0..4).map(read).collect();
        let running = tokio::spawn(join_all(reads));
        tokio::time::sleep(Duration::from_millis(round * 2)).await;
        let killed = tokio::task::spawn_blocking(move || {
            owner.kill();
            (owner.handle.clone(), Instant::now())
        });
        let (dead, since) = killed.await.unwrap();
        for outcome in running.await.unwrap() {
            match outcome {
                Ok(bytes) => assert!(landed(bytes) == expected, "round {round}"),
                Err(failure) => {
                    assert_eq!(failure.kind, ErrorKind::PeerLost, "{failure}");
                    n_lost += 1;
                }
            }
        }
        let failure = reader.read(dead, vec![START], landing(10)).await.err().unwrap();
        assert_eq!(failure.kind, ErrorKind::PeerLost, "{failure}");
        let waited = since.elapsed();
        assert!(waited < Duration::from_secs(4), "round {round}: {waited:?} after the death");
    }
    assert!(n_lost > 0, "no owner died in the middle of a read");
}

#[tokio::test]
async fn nobody_there_is_lost_at_once() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("tcp://127.0.0.1:{port}/{:032x}", 7);
    let since = Instant::now();
    let failure = transport().connect(&[address]).await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::PeerLost, "{failure}");
    assert!(since.elapsed() < Duration::from_secs(1));
}

/// An owner that proves itself and then says nothing, like a stopped process; its address, and its
/// end of the reader's connection.
async fn silent_owner(reader: &Arc<dyn Transport>) -> (String, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}/{:032x}", listener.local_addr().unwrap(), 7);
    let silent = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        planes::authenticate(&mut stream, &key(), Side::Accepting).unwrap();
        stream
    });
    reader.connect(std::slice::from_ref(&address)).await.unwrap();
    (address, silent.join().unwrap())
}

#[tokio::test]
async fn a_silent_owner_is_lost_after_a_while() {
    let reader = transport();
    let (address, _silent) = silent_owner(&reader).await;
    let lease = (LeaseId { slot: 0, generation: 1 }, Secret(1));
    let since = Instant::now();
    let read = |_| reader.read(handle(vec![address.clone()], lease), vec![START], landing(10));
    for outcome in join_all((0..5).map(read)).await {
        assert_eq!(outcome.err().unwrap().kind, ErrorKind::PeerLost);
    }
    let waited = since.elapsed();
    assert!((4..8).contains(&waited.as_secs()), "{waited:?}");
}

/// A table that is withdrawn is not read any more; others of the same process are.
#[tokio::test]
async fn a_withdrawn_table_is_lost_and_others_are_not() {
    let (owner, reader) = (transport(), transport());
    let deadline = Instant::now() + Duration::from_secs(60);
    let tables = [(); 2].map(|()| Arc::new(LeaseTable::default()));
    let (first, served) = owner.serve(Arc::clone(&tables[0])).await.unwrap();
    let (second, _served) = owner.serve(Arc::clone(&tables[1])).await.unwrap();
    let lent =
        |address, table: &LeaseTable| handle(address, table.grant(memory(1000), deadline).unwrap());
    let (first, second) = (lent(first, &tables[0]), lent(second, &tables[1]));
    let read = |from| reader.read(from, vec![START], landing(1000));
    assert!(read(first.clone()).await.is_ok());
    drop(served);
    let failure = read(first.clone()).await.err().unwrap();
    assert_eq!(failure.kind, ErrorKind::PeerLost, "{failure}");
    let elsewhere = planes::RemoteHandle { transports: second.transports.clone(), ..first };
    let failure = read(elsewhere).await.err().unwrap();
    assert_eq!(failure.kind, ErrorKind::NotFound, "a lease of one table in another: {failure}");
    assert!(read(second).await.is_ok());
}

/// Dropping a transport ends what is under way on both sides, lets go of all memory, and leaves
/// no thread behind.
#[tokio::test]
async fn a_dropped_transport_ends_its_reads() {
    const N_BYTES: usize = 64 << 20;
    for is_owner_dropped in [true, false] {
        let (owner, reader) = (transport(), transport());
        let table = Arc::new(LeaseTable::default());
        let (addresses, _served) = owner.serve(Arc::clone(&table)).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        let grant = table.grant(memory(N_BYTES), deadline).unwrap();
        let from = handle(addresses, grant);
        let kept = table.pin(grant.0, grant.1).unwrap();
        let reads: Vec<_> =
            (0..6).map(|_| reader.read(from.clone(), vec![START], landing(N_BYTES))).collect();
        let (dropped, other) = if is_owner_dropped { (owner, reader) } else { (reader, owner) };
        tokio::task::spawn_blocking(move || drop(dropped)).await.unwrap();
        for outcome in join_all(reads).await {
            let kind = outcome.err().map(|failure| failure.kind);
            assert!([None, Some(ErrorKind::PeerLost)].contains(&kind), "{kind:?}");
        }
        tokio::task::spawn_blocking(move || drop(other)).await.unwrap();
        assert_eq!(Arc::strong_count(&kept), 2, "the table's and ours");
    }
}

/// Whoever gives up a read from an owner who says nothing gets the memory back before the owner
/// counts as lost.
#[tokio::test]
async fn a_read_given_up_does_not_wait_for_a_silent_owner() {
    let reader = transport();
    let (address, mut silent) = silent_owner(&reader).await;
    let kept = Arc::new(());
    let mut into = landing(10);
    into.keep = Box::new((into.keep, Arc::clone(&kept)));
    let lease = (LeaseId { slot: 0, generation: 1 }, Secret(1));
    let read = reader.read(handle(vec![address], lease), vec![START], into);
    // Its request is under way, so the answer is due.
    silent.read_exact(&mut [0; 48]).unwrap();
    assert_eq!(Arc::strong_count(&kept), 2);
    drop(read);
    let since = Instant::now();
    while Arc::strong_count(&kept) > 1 {
        assert!(since.elapsed() < Duration::from_secs(3), "the memory is still held");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// However many reads there are, connections and waiting reads stay under their limits.
#[tokio::test]
async fn many_reads_take_few_connections_and_too_many_are_refused() {
    const N_CONNECTIONS: usize = 4;
    const N_READS: usize = N_CONNECTIONS * 4096;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}/{:032x}", listener.local_addr().unwrap(), 7);
    let silent = std::thread::spawn(move || {
        let accept = |_| {
            let (mut stream, _) = listener.accept().unwrap();
            planes::authenticate(&mut stream, &key(), Side::Accepting).unwrap();
            stream
        };
        let streams: Vec<TcpStream> = (0..N_CONNECTIONS).map(accept).collect();
        (listener, streams)
    });
    let reader = transport();
    let lease = (LeaseId { slot: 0, generation: 1 }, Secret(1));
    let read = |_| reader.read(handle(vec![address.clone()], lease), vec![START], landing(1));
    let reads: Vec<_> = (0..N_READS).map(read).collect();
    let failure = read(0).await.err().unwrap();
    assert_eq!(failure.kind, ErrorKind::Overloaded, "{failure}");
    let (listener, _streams) = silent.join().unwrap();
    drop(reads);
    tokio::task::spawn_blocking(move || drop(reader)).await.unwrap();
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "there was one more connection");
}

/// An owner may close a connection that nobody used for long: the next read takes another one.
#[tokio::test]
async fn a_connection_closed_while_idle_costs_no_read() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}/{:032x}", listener.local_addr().unwrap(), 7);
    let (closed, is_closed) = std::sync::mpsc::channel();
    let refuses = std::thread::spawn(move || {
        for _ in 0..3 {
            let (mut stream, _) = listener.accept().unwrap();
            planes::authenticate(&mut stream, &key(), Side::Accepting).unwrap();
            stream.read_exact(&mut [0; 72]).unwrap();
            stream.write_all(b"\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0").unwrap();
            drop(stream);
            closed.send(()).unwrap();
        }
    });
    let reader = transport();
    let lease = (LeaseId { slot: 0, generation: 1 }, Secret(1));
    for _ in 0..3 {
        let read = reader.read(handle(vec![address.clone()], lease), vec![START], landing(1));
        let failure = read.await.err().unwrap();
        assert_eq!(failure.kind, ErrorKind::NotFound, "the owner was asked: {failure}");
        is_closed.recv().unwrap();
    }
    refuses.join().unwrap();
}
