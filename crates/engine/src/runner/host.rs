//! Steps on the processor: launched and done at once.

use super::Launched;
use super::flat::FlatStep;
use super::gpu::Forward;
use models::Step;
use tensor::ops::sample::{Draw, Sampler};
use types::output::OutputToken;
use types::{Result, TokenId};

/// What steps on the processor keep.
#[derive(Default)]
pub(super) struct HostSteps {
    sampler: Sampler,
    /// The tokens of the step before.
    sampled: Vec<TokenId>,
}

impl HostSteps {
    pub(super) fn launch(
        &mut self,
        forward: &mut Forward<'_>,
        flat: &mut FlatStep<'_>,
        draws: &[(usize, Draw<'_>)],
    ) -> Result<Launched> {
        let Forward { model, device, kv } = forward;
        flat.carry(&self.sampled);
        let step = Step::new(device, model.spec(), &flat.input())?;
        let logits = model.forward(device, &step, kv)?;
        let sample = |(row, draw): &(usize, _)| self.sampler.sample(logits.row(*row), draw);
        let tokens: Vec<_> = draws.iter().map(sample).collect();
        self.sampled = known(&tokens);
        Ok(Launched::Done(tokens))
    }
}

/// The tokens that were sampled; 0 where there was none.
pub(crate) fn known(samples: &[Result<OutputToken>]) -> Vec<TokenId> {
    samples.iter().map(|sample| sample.as_ref().map_or(0, |sampled| sampled.token)).collect()
}
