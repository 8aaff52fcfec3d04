//! Ways to the peers that this worker reads from, opened before the first request needs them.

use crate::worker::Shared;
use futures::StreamExt;
use planes::{Instance, MembershipEvent};
use std::sync::Weak;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;
use types::stage::{Stage, Stages};

/// Longest time that opening one way may take; a read opens it again when it must.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Follows membership and connects to every peer whose memory a worker of `stages` reads. Ends with
/// the worker.
pub(crate) async fn connect_to_all(shared: Weak<Shared>, stages: Stages) {
    let Some(mut events) = shared.upgrade().map(|shared| shared.planes.discovery.watch()) else {
        return;
    };
    // Dropped with this future, and all attempts with it.
    let mut attempts = JoinSet::new();
    while let Some(event) = events.next().await {
        while attempts.try_join_next().is_some() {}
        let arrived = match event {
            MembershipEvent::Snapshot(instances) => instances,
            MembershipEvent::Joined(instance) => vec![instance],
            MembershipEvent::Left(_) | MembershipEvent::SourceLost => Vec::new(),
        };
        for peer in arrived.into_iter().filter(|peer| reads_from(stages, peer)) {
            attempts.spawn(connect(shared.clone(), peer));
        }
    }
}

/// Prefill reads rows of encoders, decode reads blocks of prefill workers.
fn reads_from(stages: Stages, peer: &Instance) -> bool {
    let alone = |stage| peer.stages.has(stage) && !peer.stages.has(Stage::Decode);
    let reads_rows = stages.has(Stage::Prefill) && alone(Stage::Encode);
    let reads_blocks = stages == Stages::of(&[Stage::Decode]) && alone(Stage::Prefill);
    (reads_rows && !peer.stages.has(Stage::Prefill)) || reads_blocks
}

async fn connect(shared: Weak<Shared>, peer: Instance) {
    let Some(shared) = shared.upgrade() else { return };
    let connecting = shared.planes.transport.connect(&peer.transports);
    drop(shared);
    let address = &peer.address.0;
    match timeout(CONNECT_DEADLINE, connecting).await {
        Ok(Ok(())) => tracing::debug!("connected to the memory of {address}"),
        Ok(Err(failure)) => tracing::warn!("cannot reach the memory of {address}: {failure}"),
        Err(_) => tracing::warn!("cannot reach the memory of {address}: no answer"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use planes::Address;
    use types::InstanceId;
    use types::content::Digest;

    #[test]
    fn each_role_reads_from_the_one_before() {
        let (e, d) = (Stages::of(&[Stage::Encode]), Stages::of(&[Stage::Decode]));
        let q = Stages::of(&[Stage::Encode, Stage::Prefill]);
        let p = Stages::of(&[Stage::Prefill]);
        let check = |reader, owner, expect| {
            let peer = Instance {
                id: InstanceId(1),
                model: "m".into(),
                card: Digest::default(),
                stages: owner,
                address: Address("a".into()),
                transports: Vec::new(),
                kv: None,
                encode_endpoint: None,
            };
            assert_eq!(reads_from(reader, &peer), expect, "{reader:?} of {owner:?}");
        };
        for prefill in [p, q] {
            check(prefill, e, true);
            check(d, prefill, true);
            check(prefill, d, false);
            check(prefill, Stages::ALL, false);
        }
        check(e, q, false);
        check(d, e, false);
        check(d, Stages::ALL, false);
        check(q, q, false);
        check(Stages::ALL, e, true);
    }
}
