//! The rows that this worker computes for peers: who may have them, and whether they are ready.

use planes::random;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tensor::SlabRange;
use tokio::sync::watch;
use types::{Error, ErrorKind, RequestId, Result, Secret};
use wire::message::Ticket;

/// Rows, once they are there or have failed.
pub(crate) type RowsResult = Result<Arc<SlabRange>>;

type State = watch::Receiver<Option<RowsResult>>;

/// Rows by request and item. An entry lives exactly as long as its [`Promise`].
#[derive(Default)]
pub(crate) struct RowsTable(Arc<Mutex<Entries>>);

type Entries = HashMap<(RequestId, u32), Entry>;

struct Entry {
    secret: Secret,
    state: State,
}

/// The duty to deliver rows; dropping it forgets them.
pub(crate) struct Promise {
    entries: Arc<Mutex<Entries>>,
    request: RequestId,
    item_idx: u32,
    pub(crate) secret: Secret,
    sender: watch::Sender<Option<RowsResult>>,
}

impl RowsTable {
    /// A new entry, not ready.
    pub(crate) fn promise(&self, request: RequestId, item_idx: u32) -> Promise {
        let (sender, state) = watch::channel(None);
        let secret = random::secret();
        lock(&self.0).insert((request, item_idx), Entry { secret, state });
        Promise { entries: Arc::clone(&self.0), request, item_idx, secret, sender }
    }

    /// Waits until the rows of `ticket` are ready. Errors: no such rows (any more), or their own.
    pub(crate) async fn wait(&self, ticket: &Ticket) -> RowsResult {
        let found = |entry: &Entry| entry.secret == ticket.secret;
        let state = {
            let entries = lock(&self.0);
            let entry = entries.get(&(ticket.request, ticket.item_idx));
            entry.filter(|entry| found(entry)).map(|entry| entry.state.clone())
        };
        let mut state = state.ok_or_else(forgotten)?;
        let ready = state.wait_for(Option::is_some).await.map_err(|_| forgotten())?;
        ready.as_ref().map_or_else(|| Err(forgotten()), Clone::clone)
    }

    pub(crate) fn len(&self) -> usize {
        lock(&self.0).len()
    }
}

impl Promise {
    /// Tells everybody who waits.
    pub(crate) fn keep(&self, rows: RowsResult) {
        self.sender.send_replace(Some(rows));
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        lock(&self.entries).remove(&(self.request, self.item_idx));
    }
}

fn lock(entries: &Mutex<Entries>) -> MutexGuard<'_, Entries> {
    entries.lock().unwrap_or_else(PoisonError::into_inner)
}

fn forgotten() -> Error {
    Error::new(ErrorKind::NotFound, "the encoder does not have these rows, or no longer")
}
