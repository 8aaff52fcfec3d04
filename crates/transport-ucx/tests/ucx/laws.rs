//! The laws of transport, between two transports of one process.

use crate::common::{CLOCK, destination, key, lend, start, start_with, subject};
use planes::conformance::TransportSubject;
use planes::{LeaseTable, Source};
use std::sync::Arc;
use types::ErrorKind;

planes::transport_laws!(tokio::test(flavor = "multi_thread"), subject());

/// An owner that reads from itself meets itself.
#[tokio::test(flavor = "multi_thread")]
async fn an_owner_may_read_from_itself() {
    let both = start();
    let subject = TransportSubject { owner: Arc::clone(&both), reader: both, clock: CLOCK };
    planes::conformance::a_thousand_transfers_of_all_kinds(subject).await;
}

/// Ten thousand transfers of all kinds.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_transfers_of_all_kinds() {
    planes::conformance::stress(subject(), 10_000).await;
}

/// More reads than an owner is asked for at a time, of which some are given up while their pieces
/// are on the way: the others' turn comes earlier, and they are refused nothing.
#[tokio::test(flavor = "multi_thread")]
async fn reads_that_are_given_up_cost_the_others_nothing() {
    const N_ROUNDS: usize = 20;
    const N_READS: usize = 160;
    const N_BYTES: usize = 1 << 20;
    let (owner, reader, table) = (start(), start(), Arc::new(LeaseTable::default()));
    let (handle, _served) = lend(&owner, &table, N_BYTES, Arc::new(())).await;
    for round in 0..N_ROUNDS {
        let read = |_| {
            let source = Source { region_idx: 0, offset: 0 };
            let into = destination(N_BYTES);
            tokio::spawn(reader.read(handle.clone(), vec![source], into))
        };
        let mut reads: Vec<_> = (0..N_READS).map(read).collect();
        let rest = reads.split_off(1 + round);
        let ended = futures::future::join_all(reads).await;
        rest.iter().step_by(2).for_each(|given_up| given_up.abort());
        let kept = rest.into_iter().skip(1).step_by(2);
        for outcome in ended.into_iter().chain(futures::future::join_all(kept).await) {
            outcome.unwrap().map(drop).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_cluster_s_key_is_refused() {
    let owner = start();
    let (transports, _served) = owner.serve(Arc::new(LeaseTable::default())).await.unwrap();
    let stranger = start_with(key("the key of another cluster")).unwrap();
    let failure = stranger.connect(&transports).await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Forbidden, "{failure}");
    start().connect(&transports).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_withdrawn_is_served_to_nobody() {
    let (owner, reader) = (start(), start());
    let (transports, served) = owner.serve(Arc::new(LeaseTable::default())).await.unwrap();
    drop(served);
    let failure = reader.connect(&transports).await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::PeerLost, "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_at_the_address_is_a_lost_peer() {
    let (owner, reader) = (start(), start());
    let (transports, _served) = owner.serve(Arc::new(LeaseTable::default())).await.unwrap();
    drop(owner);
    for addresses in [transports, vec!["tcp://127.0.0.1:1/0".into()], vec![]] {
        let failure = reader.connect(&addresses).await.unwrap_err();
        assert_eq!(failure.kind, ErrorKind::PeerLost, "{failure}");
    }
}

#[test]
fn the_check_names_version_and_devices() {
    drop(start());
    let words = transport_ucx::check().unwrap();
    println!("{words}");
    assert!(words.contains("UCX 1.") && words.contains("tcp/"), "{words}");
}
