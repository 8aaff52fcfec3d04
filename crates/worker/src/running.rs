//! Which call of this worker runs a request, so that one of its choices can be ended by name.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use types::RequestId;

/// Requests by their own id, and the engine's id of the call that runs them.
#[derive(Default)]
pub(crate) struct RunningCalls(Mutex<HashMap<RequestId, RequestId>>);

/// A call that runs a request, until it is dropped.
pub(crate) struct RunningCall<'a> {
    calls: &'a RunningCalls,
    request: RequestId,
    engine_id: RequestId,
}

impl RunningCalls {
    /// The call `engine_id` runs `request` from now on; a later call of the same request counts.
    pub(crate) fn begin(&self, request: RequestId, engine_id: RequestId) -> RunningCall<'_> {
        self.lock().insert(request, engine_id);
        RunningCall { calls: self, request, engine_id }
    }

    /// The engine's id of the call that runs `request`.
    pub(crate) fn find(&self, request: RequestId) -> Option<RequestId> {
        self.lock().get(&request).copied()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RequestId, RequestId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RunningCall<'_> {
    fn drop(&mut self) {
        let mut calls = self.calls.lock();
        if calls.get(&self.request) == Some(&self.engine_id) {
            calls.remove(&self.request);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_call_of_a_request_counts() {
        let calls = RunningCalls::default();
        let (request, first, second) = (RequestId(1), RequestId(10), RequestId(11));
        let earlier = calls.begin(request, first);
        let later = calls.begin(request, second);
        drop(earlier);
        assert_eq!(calls.find(request), Some(second));
        drop(later);
        assert_eq!(calls.find(request), None);
    }
}
