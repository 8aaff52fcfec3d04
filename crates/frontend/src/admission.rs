//! How much may be at work at once: requests, and bytes of their bodies.

use config::frontend::FrontendLimits;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use types::{Error, ErrorKind, Result};

/// Bodies are accounted for in pieces of this size.
const PIECE_BYTES: usize = 64 << 10;

/// What is still free.
pub(crate) struct Admission {
    requests: Arc<Semaphore>,
    body_pieces: Arc<Semaphore>,
}

/// A request's place; dropping it frees the place and the account of its body.
pub(crate) struct Place {
    _request: OwnedSemaphorePermit,
    body_pieces: Arc<Semaphore>,
    body: Option<OwnedSemaphorePermit>,
}

impl Admission {
    pub(crate) fn new(limits: &FrontendLimits) -> Self {
        let n_pieces = limits.body_bytes_held_max.div_ceil(PIECE_BYTES);
        Self {
            requests: Arc::new(Semaphore::new(limits.n_inflight_max)),
            body_pieces: Arc::new(Semaphore::new(n_pieces)),
        }
    }

    /// A place for one more request, or `Overloaded`.
    pub(crate) fn enter(&self) -> Result<Place> {
        let request = Arc::clone(&self.requests).try_acquire_owned().map_err(|_| full())?;
        Ok(Place { _request: request, body_pieces: Arc::clone(&self.body_pieces), body: None })
    }
}

impl Place {
    /// Makes sure that `n_bytes` of body are accounted for, or `Overloaded`.
    pub(crate) fn hold(&mut self, n_bytes: usize) -> Result<()> {
        let held = self.body.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = n_bytes.div_ceil(PIECE_BYTES).saturating_sub(held);
        if more == 0 {
            return Ok(());
        }
        let more = u32::try_from(more).map_err(|_| full())?;
        let more = Arc::clone(&self.body_pieces).try_acquire_many_owned(more);
        let more = more.map_err(|_| full())?;
        match &mut self.body {
            Some(body) => body.merge(more),
            None => self.body = Some(more),
        }
        Ok(())
    }
}

fn full() -> Error {
    Error::new(ErrorKind::Overloaded, "The server is at work on as much as it can; try again soon.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_bytes_are_given_back() {
        let limits = FrontendLimits {
            n_inflight_max: 2,
            body_bytes_held_max: 3 * PIECE_BYTES,
            ..FrontendLimits::default()
        };
        let admission = Admission::new(&limits);
        let (mut first, mut second) = (admission.enter().unwrap(), admission.enter().unwrap());
        assert_eq!(admission.enter().err().unwrap().kind, ErrorKind::Overloaded);
        first.hold(1).unwrap();
        first.hold(PIECE_BYTES + 1).unwrap();
        assert!(second.hold(PIECE_BYTES + 1).is_err(), "one piece is left");
        second.hold(PIECE_BYTES).unwrap();
        drop(first);
        second.hold(3 * PIECE_BYTES).unwrap();
        admission.enter().unwrap();
    }
}
