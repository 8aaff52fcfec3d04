//! Work too long for the event loop, on a bounded number of other threads.

use tokio::sync::Semaphore;
use types::{Error, Result};

/// Work on fewer bytes than this is done where it is asked for: it takes less than a millisecond.
const INLINE_BYTES_MAX: usize = 2 << 10;

/// The bound on such work.
pub(crate) struct Offload {
    permits: Semaphore,
}

impl Offload {
    /// At most `n_at_once` pieces of work run at the same time; others wait.
    pub(crate) fn new(n_at_once: usize) -> Self {
        Self { permits: Semaphore::new(n_at_once) }
    }

    /// Runs `work` on `n_bytes` of input, elsewhere if they are many.
    pub(crate) async fn run<T, E>(
        &self,
        n_bytes: usize,
        work: impl FnOnce() -> std::result::Result<T, E> + Send + 'static,
    ) -> std::result::Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        match n_bytes < INLINE_BYTES_MAX {
            true => work(),
            false => self.always(move || Ok(work())).await?,
        }
    }

    /// Runs `work` elsewhere.
    pub(crate) async fn always<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        // The semaphore is never closed, so there is always a permit in the end.
        let _permit = self.permits.acquire().await;
        let done = tokio::task::spawn_blocking(work).await;
        done.unwrap_or_else(|_| Err(Error::internal("preparing the request failed unexpectedly")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::{self, ThreadId};

    #[tokio::test]
    async fn what_takes_long_leaves_the_event_loop_to_others() {
        let offload = Offload::new(1);
        let here = thread::current().id();
        let whose = || Ok::<ThreadId, Error>(thread::current().id());
        assert_eq!(offload.run(INLINE_BYTES_MAX - 1, whose).await, Ok(here));
        assert_ne!(offload.run(INLINE_BYTES_MAX, whose).await, Ok(here));
        assert_ne!(offload.always(whose).await, Ok(here));
    }
}
