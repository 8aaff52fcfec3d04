//! TCP obeys the laws of transport, between two ends that know each other by their key.

use futures::FutureExt;
use planes::ClusterKey;
use planes::conformance::{Clock, TransportSubject, stress};
use transport_tcp::{TcpConfig, start};

const CLOCK: Clock = Clock { sleep: |duration| tokio::time::sleep(duration).boxed() };

fn subject() -> TransportSubject {
    let key = ClusterKey::from_bytes(b"the key of this cluster").unwrap();
    let config = TcpConfig { listen: ([127, 0, 0, 1], 0).into(), advertise: None, key };
    let owner = start(config.clone()).unwrap();
    let reader = start(config).unwrap();
    TransportSubject { owner, reader, clock: CLOCK }
}

planes::transport_laws!(tokio::test, subject());

#[tokio::test]
async fn ten_thousand_transfers_leave_nothing_behind() {
    stress(subject(), 10_000).await;
}
