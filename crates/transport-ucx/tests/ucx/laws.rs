//! The laws of transport, between two transports of one process.

use crate::common::{CLOCK, key, start, start_with, subject};
use planes::LeaseTable;
use planes::conformance::TransportSubject;
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
