//! Where each request is being run at this moment, so that one of its choices can be ended there.

use planes::Address;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use types::RequestId;

type Addresses = HashMap<RequestId, Address>;

/// The worker that runs each request.
#[derive(Default)]
pub(crate) struct Places(Arc<Mutex<Addresses>>);

/// A request under way; forgotten when this is dropped.
pub(crate) struct Place {
    addresses: Arc<Mutex<Addresses>>,
    id: RequestId,
}

impl Places {
    /// A request that has just come, run by nobody yet.
    pub(crate) fn enter(&self, id: RequestId) -> Place {
        Place { addresses: Arc::clone(&self.0), id }
    }

    pub(crate) fn find(&self, id: RequestId) -> Option<Address> {
        lock(&self.0).get(&id).cloned()
    }
}

impl Place {
    /// The worker at `address` runs the request from now on.
    pub(crate) fn moves_to(&self, address: &Address) {
        lock(&self.addresses).insert(self.id, address.clone());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.addresses).remove(&self.id);
    }
}

fn lock(addresses: &Mutex<Addresses>) -> MutexGuard<'_, Addresses> {
    addresses.lock().unwrap_or_else(PoisonError::into_inner)
}
