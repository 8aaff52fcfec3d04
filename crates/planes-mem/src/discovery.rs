//! The table of instances of this process.

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use planes::{Discovery, Instance, MembershipEvent, Withdraw};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use types::{InstanceId, Result};

#[derive(Default)]
pub(crate) struct MemDiscovery(Arc<Mutex<Members>>);

/// Events are few (one for each instance that comes or goes), so the watchers' queues have no bound
/// of their own; a watcher that is dropped is forgotten at the next event.
#[derive(Default)]
struct Members {
    instances: Vec<Instance>,
    watchers: Vec<mpsc::UnboundedSender<MembershipEvent>>,
}

impl Members {
    fn tell(&mut self, event: &MembershipEvent) {
        self.watchers.retain(|watcher| watcher.send(event.clone()).is_ok());
    }

    fn join(&mut self, instance: Instance) {
        self.instances.push(instance.clone());
        self.tell(&MembershipEvent::Joined(instance));
    }

    fn leave(&mut self, id: InstanceId) {
        self.instances.retain(|instance| instance.id != id);
        self.tell(&MembershipEvent::Left(id));
    }
}

fn lock(members: &Mutex<Members>) -> MutexGuard<'_, Members> {
    members.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Discovery for MemDiscovery {
    fn register(&self, instance: Instance) -> BoxFuture<'static, Result<Withdraw>> {
        let members = Arc::clone(&self.0);
        let id = instance.id;
        lock(&members).join(instance);
        let withdraw = Withdraw::on_drop(move || lock(&members).leave(id));
        async move { Ok(withdraw) }.boxed()
    }

    fn watch(&self) -> BoxStream<'static, MembershipEvent> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut members = lock(&self.0);
        // The receiver is at hand, so the snapshot cannot fail to be sent.
        let _ = sender.send(MembershipEvent::Snapshot(members.instances.clone()));
        members.watchers.push(sender);
        UnboundedReceiverStream::new(receiver).boxed()
    }
}
