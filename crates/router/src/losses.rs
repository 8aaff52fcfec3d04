//! The workers that a request has lost, none of which it asks a second time.

use types::{Error, InstanceId, Result};

/// Workers that may be lost under a request before it fails.
const N_LOST_MAX: usize = 3;

/// A worker that is gone, so that another may do its work.
#[derive(Debug)]
pub(crate) struct Loss {
    /// Which, where that is known.
    pub(crate) worker: Option<InstanceId>,
    /// What was seen of it.
    pub(crate) failure: Error,
}

/// What a request has lost so far.
#[derive(Default)]
pub(crate) struct Losses(Vec<Loss>);

impl Losses {
    /// One more. Errors: it is one too many.
    pub(crate) fn add(&mut self, loss: Loss) -> Result<()> {
        if self.0.len() >= N_LOST_MAX {
            return Err(loss.failure);
        }
        tracing::warn!("a worker was lost: {}; trying again", loss.failure);
        self.0.push(loss);
        Ok(())
    }

    /// Whether this worker is one of them.
    pub(crate) fn has(&self, id: InstanceId) -> bool {
        self.0.iter().any(|loss| loss.worker == Some(id))
    }

    /// `missing` is the error for want of a worker; what was lost before tells why.
    pub(crate) fn explain(&self, missing: Error) -> Error {
        let Some(Loss { failure, .. }) = self.0.last() else { return missing };
        let message = format!("{}, because the last one was lost: {failure}", missing.message);
        Error { message, ..missing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::ErrorKind;

    fn loss(worker: Option<u128>) -> Loss {
        let failure = Error::new(ErrorKind::PeerLost, "silence");
        Loss { worker: worker.map(InstanceId), failure }
    }

    #[test]
    fn a_lost_worker_is_known_and_tells_why_one_is_missing() {
        let mut losses = Losses::default();
        let missing = || Error::new(ErrorKind::Unavailable, "no decode worker is there");
        assert_eq!(losses.explain(missing()), missing());
        losses.add(loss(None)).unwrap();
        losses.add(loss(Some(2))).unwrap();
        assert!(losses.has(InstanceId(2)) && !losses.has(InstanceId(1)));
        let explained = losses.explain(missing());
        assert_eq!(explained.kind, ErrorKind::Unavailable);
        let words = "no decode worker is there, because the last one was lost: silence";
        assert_eq!(explained.message, words);
    }

    #[test]
    fn too_many_losses_are_a_failure() {
        let mut losses = Losses::default();
        for worker in 0..N_LOST_MAX as u128 {
            losses.add(loss(Some(worker))).unwrap();
        }
        assert_eq!(losses.add(loss(None)).unwrap_err().kind, ErrorKind::PeerLost);
    }
}
