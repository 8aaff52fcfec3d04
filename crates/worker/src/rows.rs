//! The rows that this worker computes for peers: who may have them, whether anybody has asked, and
//! whether they are ready. Rows are given out once; whoever read them has a copy.

use planes::random;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tensor::SlabRange;
use tokio::sync::watch;
use types::{Error, ErrorKind, RequestId, Result, Secret};
use wire::message::Ticket;

/// Rows, once they are there or have failed.
pub(crate) type RowsResult = Result<Arc<SlabRange>>;

/// Rows by request and item. An entry lives exactly as long as its [`Promise`].
#[derive(Default)]
pub(crate) struct RowsTable(Arc<Mutex<Entries>>);

type Entries = HashMap<(RequestId, u32), Entry>;

struct Entry {
    secret: Secret,
    state: Arc<watch::Sender<State>>,
}

#[derive(Clone)]
enum State {
    /// Nobody has asked yet.
    Unasked,
    /// Somebody waits.
    Wanted,
    /// They are there, or never will be.
    Ready(RowsResult),
    /// Whoever asked has them.
    Taken,
}

/// The duty to deliver rows; dropping it forgets them.
pub(crate) struct Promise {
    entries: Arc<Mutex<Entries>>,
    request: RequestId,
    item_idx: u32,
    pub(crate) secret: Secret,
    state: Arc<watch::Sender<State>>,
}

impl RowsTable {
    /// A new entry, not ready.
    pub(crate) fn promise(&self, request: RequestId, item_idx: u32) -> Promise {
        let state = Arc::new(watch::Sender::new(State::Unasked));
        let secret = random::secret();
        let entry = Entry { secret, state: Arc::clone(&state) };
        lock(&self.0).insert((request, item_idx), entry);
        Promise { entries: Arc::clone(&self.0), request, item_idx, secret, state }
    }

    /// Asks for the rows of `ticket`, waits until they are ready and takes them.
    ///
    /// Errors: no such rows (any more), or their own.
    pub(crate) async fn take(&self, ticket: &Ticket) -> RowsResult {
        let state = self.find(ticket).ok_or_else(forgotten)?;
        let mut changes = state.subscribe();
        // The table alone keeps the entry alive, so that its end is seen here.
        let weak = Arc::downgrade(&state);
        state.send_if_modified(|state| {
            let is_first = matches!(state, State::Unasked);
            if is_first {
                *state = State::Wanted;
            }
            is_first
        });
        drop(state);
        let is_settled = |state: &State| matches!(state, State::Ready(_) | State::Taken);
        changes.wait_for(is_settled).await.map_err(|_| forgotten())?;
        drop(changes);
        match weak.upgrade().ok_or_else(forgotten)?.send_replace(State::Taken) {
            State::Ready(rows) => rows,
            State::Unasked | State::Wanted | State::Taken => Err(forgotten()),
        }
    }

    pub(crate) fn len(&self) -> usize {
        lock(&self.0).len()
    }

    fn find(&self, ticket: &Ticket) -> Option<Arc<watch::Sender<State>>> {
        let entries = lock(&self.0);
        let entry = entries.get(&(ticket.request, ticket.item_idx))?;
        (entry.secret == ticket.secret).then(|| Arc::clone(&entry.state))
    }
}

impl Promise {
    /// Waits until somebody asks.
    pub(crate) async fn wanted(&self) {
        let mut changes = self.state.subscribe();
        // The sender is ours, so the wait ends only with an answer.
        let _ = changes.wait_for(|state| !matches!(state, State::Unasked)).await;
    }

    /// Tells whoever asked or will ask.
    pub(crate) fn keep(&self, rows: RowsResult) {
        self.state.send_replace(State::Ready(rows));
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

#[cfg(test)]
mod tests {
    use super::*;
    use planes::Address;
    use tensor::{Arena, Slab};

    const REQUEST: RequestId = RequestId(7);

    fn ticket(promise: &Promise) -> Ticket {
        let owner = Address("e".into());
        Ticket { owner, request: REQUEST, item_idx: 0, secret: promise.secret }
    }

    #[tokio::test]
    async fn rows_are_given_out_once() {
        let slab = Slab::new(Arena::host(4096).unwrap());
        let table = RowsTable::default();
        let promise = table.promise(REQUEST, 0);
        promise.keep(Ok(Arc::new(slab.alloc(64).unwrap())));
        let ticket = ticket(&promise);
        let forged = Ticket { secret: Secret(ticket.secret.0 ^ 1), ..ticket.clone() };
        assert!(table.take(&forged).await.is_err());
        assert_eq!(slab.n_bytes_used(), 64);
        let rows = table.take(&ticket).await.unwrap();
        assert!(table.take(&ticket).await.is_err(), "taken already");
        drop(rows);
        assert_eq!(slab.n_bytes_used(), 0, "nobody else kept them");
        drop(promise);
        assert_eq!(table.len(), 0);
    }

    #[tokio::test]
    async fn whoever_promised_hears_that_somebody_asks() {
        let table = Arc::new(RowsTable::default());
        let promise = table.promise(REQUEST, 0);
        let (asking, ticket) = (Arc::clone(&table), ticket(&promise));
        let asked = tokio::spawn(async move { asking.take(&ticket).await });
        promise.wanted().await;
        drop(promise);
        let failure = asked.await.unwrap().unwrap_err();
        assert_eq!(failure.kind, ErrorKind::NotFound, "the promise was broken");
    }
}
