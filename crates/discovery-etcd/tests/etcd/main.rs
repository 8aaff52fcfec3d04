//! Discovery over a real etcd: the laws, outages, start-up, and who may come in.

mod outages;
mod security;
mod server;
mod starting;

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use planes::conformance::{Clock, DiscoverySubject};
use planes::{Address, Instance, MembershipEvent, random};
use server::Etcd;
use std::time::Duration;
use types::content::Digest;
use types::stage::Stages;

/// Longest time that anything in these tests may take.
const PATIENCE: Duration = Duration::from_secs(20);

const CLOCK: Clock = Clock { sleep: |duration| tokio::time::sleep(duration).boxed() };

/// Two processes' worth of connections.
async fn subject(etcd: &Etcd) -> DiscoverySubject {
    let near = etcd.connect().await;
    let far = etcd.connect().await;
    DiscoverySubject { near, far, clock: CLOCK }
}

// The server is a temporary of the statement that runs the law, so it lives as long.
planes::discovery_laws!(
    tokio::test(flavor = "multi_thread"),
    match &Etcd::start().await {
        Some(etcd) => subject(etcd).await,
        None => return,
    }
);

fn instance(name: &str) -> Instance {
    Instance {
        id: random::instance_id(),
        model: name.into(),
        card: Digest([7; 32]),
        stages: Stages::ALL,
        address: Address(format!("test.{name}")),
        transports: vec!["tcp://[::1]:9".into()],
        kv: None,
        encode_endpoint: None,
    }
}

type Watch = BoxStream<'static, MembershipEvent>;

async fn next_event(watch: &mut Watch) -> MembershipEvent {
    let next = tokio::time::timeout(PATIENCE, watch.next()).await;
    next.expect("there is an event in time").expect("a watch has no end")
}

/// Asserts that nothing is told for as long.
async fn silence(watch: &mut Watch, duration: Duration) {
    if let Ok(event) = tokio::time::timeout(duration, watch.next()).await {
        panic!("nothing was to be told, but {event:?}");
    }
}
