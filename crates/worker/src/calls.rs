//! How many calls a worker is answering, so that it can leave when the last one has ended.

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// The calls under way.
#[derive(Default)]
pub(crate) struct Calls(Arc<watch::Sender<usize>>);

/// One of them, until it is dropped.
pub(crate) struct Running(Arc<watch::Sender<usize>>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.send_modify(|n_running| *n_running -= 1);
    }
}

impl Calls {
    pub(crate) fn begin(&self) -> Running {
        self.0.send_modify(|n_running| *n_running += 1);
        Running(Arc::clone(&self.0))
    }

    pub(crate) fn n_running(&self) -> usize {
        *self.0.borrow()
    }

    /// Waits until none is under way; false when some still are after `patience`.
    pub(crate) async fn ended(&self, patience: Duration) -> bool {
        let mut changes = self.0.subscribe();
        timeout(patience, changes.wait_for(|&n_running| n_running == 0)).await.is_ok()
    }
}
