//! The workers that a request has lost, none of which it asks a second time.

use crate::route::Route;
use types::{Error, ErrorKind, InstanceId, Result};

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

    /// Errors: `route` leads to a lost worker again, so there is no other in its role.
    pub(crate) fn check(&self, route: &Route) -> Result<()> {
        let stages = route.encode.iter().map(|share| ("encode ", &share.encoder));
        let prefill = if route.decode.is_some() { "prefill " } else { "" };
        let stages = stages.chain([(prefill, &route.prefill)]);
        for (role, instance) in stages.chain(route.decode.iter().map(|found| ("decode ", found))) {
            let lost = self.0.iter().find(|loss| loss.worker == Some(instance.id));
            if let Some(Loss { failure, .. }) = lost {
                let model = &instance.model;
                let message =
                    format!("the only {role}worker for the model `{model}` was lost: {failure}");
                return Err(Error::new(ErrorKind::Unavailable, message));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use planes::{Address, Instance};
    use types::content::Digest;
    use types::stage::Stages;

    fn instance(id: u128) -> Instance {
        Instance {
            id: InstanceId(id),
            model: "m".into(),
            card: Digest::default(),
            stages: Stages::ALL,
            address: Address(id.to_string()),
            transports: Vec::new(),
            kv: None,
            encode_endpoint: None,
        }
    }

    fn loss(worker: Option<u128>) -> Loss {
        let failure = Error::new(ErrorKind::PeerLost, "silence");
        Loss { worker: worker.map(InstanceId), failure }
    }

    #[test]
    fn a_lost_worker_is_not_asked_again() {
        let mut losses = Losses::default();
        let route = |prefill, decode| Route {
            encode: Vec::new(),
            prefill: instance(prefill),
            decode: Some(instance(decode)),
        };
        losses.add(loss(None)).unwrap();
        losses.add(loss(Some(2))).unwrap();
        assert!(losses.check(&route(1, 3)).is_ok());
        let refused = losses.check(&route(1, 2)).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Unavailable);
        assert!(refused.message.contains("the only decode worker"), "{refused}");
        assert!(losses.check(&route(2, 1)).is_err());
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
