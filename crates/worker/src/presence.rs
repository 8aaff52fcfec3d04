//! A worker's place in the membership: taken at the start, left when it drains, and taken anew
//! under another id when the process stood still for so long that its peers have given it up.

use crate::worker::Shared;
use planes::{Beat, Instance, Pulse, Withdraw, random};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use types::Result;

/// Time between two attempts to register again.
const RETRY: Duration = Duration::from_millis(500);

/// Registered until this is dropped.
pub(crate) struct Presence {
    // Dropped in this order: nobody wakes us any more, then nobody finds us.
    _pulse: Option<Pulse>,
    held: Held,
}

/// Who holds the registration.
enum Held {
    /// It is the same for as long as the process lives.
    Here(#[expect(dead_code, reason = "kept for its drop")] Withdraw),
    /// A task takes a new one whenever the process wakes, and withdraws it when it is aborted.
    Following(JoinHandle<()>),
}

impl Drop for Presence {
    fn drop(&mut self) {
        if let Held::Following(task) = &self.held {
            task.abort();
        }
    }
}

impl Presence {
    /// Registers `instance`, and does it again whenever the process wakes. Errors: discovery
    /// refused the first time.
    pub(crate) async fn take(shared: &Arc<Shared>, instance: Instance) -> Result<Self> {
        let registered = shared.planes.discovery.register(instance.clone()).await?;
        if !shared.planes.are_apart {
            return Ok(Self { _pulse: None, held: Held::Here(registered) });
        }
        let (woke, wakings) = watch::channel(0_u64);
        let pulse = Pulse::start(move |beat| match beat {
            Beat::Regular => {}
            Beat::Woke { silence } => {
                tracing::warn!("this process stood still for {silence:?}; it joins anew");
                woke.send_modify(|n_wakings| *n_wakings += 1);
            }
        });
        let shared = Arc::downgrade(shared);
        let following = tokio::spawn(rejoin(shared, instance, registered, wakings));
        Ok(Self { _pulse: Some(pulse), held: Held::Following(following) })
    }
}

/// After each waking: nobody may read what was lent before, and a new id is registered.
async fn rejoin(
    shared: Weak<Shared>,
    instance: Instance,
    mut registered: Withdraw,
    mut wakings: watch::Receiver<u64>,
) {
    while wakings.changed().await.is_ok() {
        let Some(shared) = shared.upgrade() else { return };
        shared.leases.revoke_all();
        drop(registered);
        let again = Instance { id: random::instance_id(), ..instance.clone() };
        registered = register(&shared, again).await;
    }
}

/// Registers, however long it takes: without that nobody would ever find the worker again.
async fn register(shared: &Shared, instance: Instance) -> Withdraw {
    loop {
        match shared.planes.discovery.register(instance.clone()).await {
            Ok(withdraw) => return withdraw,
            Err(failure) => tracing::warn!("cannot register again yet: {failure}"),
        }
        sleep(RETRY).await;
    }
}
