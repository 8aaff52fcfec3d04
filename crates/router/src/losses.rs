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
