//! Calls that have described their media, and wait to be told that decode has room for what they
//! will compute.
//!
//! Whoever waits for room at decode holds no blocks here, as `docs/architecture.md` ("Capacity")
//! says: a prompt without media has that room when it comes and waits for our blocks, so one with
//! media must not hold blocks and wait for that room.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::timeout;
use types::{Error, ErrorKind, RequestId, Result};

/// The calls by the request that they run.
#[derive(Default)]
pub(crate) struct WaitingCalls(Mutex<HashMap<RequestId, oneshot::Sender<()>>>);

/// A call that waits, or will, until it is dropped.
pub(crate) struct WaitingCall<'a> {
    calls: &'a WaitingCalls,
    request: RequestId,
    told: oneshot::Receiver<()>,
}

impl WaitingCalls {
    /// A call of `request`; a later one counts.
    pub(crate) fn begin(&self, request: RequestId) -> WaitingCall<'_> {
        let (teller, told) = oneshot::channel();
        self.lock().insert(request, teller);
        WaitingCall { calls: self, request, told }
    }

    /// Lets the call of `request` go on, if there is one.
    pub(crate) fn proceed(&self, request: RequestId) {
        if let Some(teller) = self.lock().remove(&request) {
            let _ = teller.send(());
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RequestId, oneshot::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WaitingCall<'_> {
    /// Waits to be told. Errors: nobody said so in time (`Timeout`), or the request came again.
    pub(crate) async fn told(mut self, deadline: Duration) -> Result<()> {
        let late = |_| Error::new(ErrorKind::Timeout, "no decode worker had room in time");
        let again = |_| Error::internal("another call of the same request has begun");
        timeout(deadline, &mut self.told).await.map_err(late)?.map_err(again)
    }
}

impl Drop for WaitingCall<'_> {
    fn drop(&mut self) {
        self.told.close();
        let mut calls = self.calls.lock();
        if calls.get(&self.request).is_some_and(oneshot::Sender::is_closed) {
            calls.remove(&self.request);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: RequestId = RequestId(7);
    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn whoever_is_told_before_it_waits_goes_on_too() {
        let calls = WaitingCalls::default();
        let call = calls.begin(REQUEST);
        calls.proceed(RequestId(8));
        calls.proceed(REQUEST);
        call.told(LONG).await.unwrap();
        assert!(calls.lock().is_empty());
    }

    #[tokio::test]
    async fn the_latest_call_of_a_request_counts() {
        let calls = WaitingCalls::default();
        let (earlier, later) = (calls.begin(REQUEST), calls.begin(REQUEST));
        assert!(earlier.told(LONG).await.is_err());
        calls.proceed(REQUEST);
        later.told(LONG).await.unwrap();
    }

    #[tokio::test]
    async fn nobody_waits_for_ever_and_nothing_is_left() {
        let calls = WaitingCalls::default();
        let failure = calls.begin(REQUEST).told(Duration::from_millis(1)).await.unwrap_err();
        assert_eq!(failure.kind, ErrorKind::Timeout);
        drop(calls.begin(REQUEST));
        assert!(calls.lock().is_empty());
    }
}
