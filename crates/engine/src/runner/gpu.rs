//! Steps on a GPU: given to its stream, and waited for when their tokens are wanted.

use super::flat::FlatStep;
use super::graphs::Graphs;
use super::{Launched, known};
use crate::config::EngineConfig;
use models::{EmbeddingRows, Model, ModelSpec, StepParts};
use std::sync::Arc;
use tensor::cuda::Cuda;
use tensor::ops::carry::carry;
use tensor::ops::pack::Part;
use tensor::ops::sample::{DeviceSampler, Draw, SampleBatch, SampleParts, Sampled};
use tensor::ops::{Pack, Packed};
use tensor::{Device, KvPool, Slab, SlabRange, Tensor};
use types::output::OutputToken;
use types::{Error, Result, TokenId};

/// Tokens that can be sampled without waiting, for each sequence that a batch may have: prompts
/// that are to be exported have any number of choices.
const SAMPLES_PER_SEQ: usize = 4;
/// Words of a step's numbers that there is room for at first.
const N_WORDS: usize = 64 << 10;

/// What steps on a GPU keep.
pub(super) struct GpuSteps {
    cuda: Arc<Cuda>,
    /// Where the numbers of steps lie that are not recorded.
    area: Arc<SlabRange>,
    graphs: Graphs,
    sampler: DeviceSampler,
    n_samples_max: usize,
    /// The tokens of the step before, if it was waited for.
    sampled: Option<Vec<TokenId>>,
}

/// What a step is computed with.
pub(super) struct Forward<'a> {
    pub(super) model: &'a dyn Model,
    pub(super) device: &'a Device,
    pub(super) kv: &'a mut KvPool,
}

/// A step and its sampling, in a pack.
pub(super) struct PackedStep {
    pub(super) rows: StepParts,
    /// Per row, where its token comes from.
    pub(super) sources: Part,
    pub(super) samples: SampleParts,
}

impl GpuSteps {
    /// Errors: the device has no memory left.
    pub(super) fn new(cuda: &Arc<Cuda>, spec: &ModelSpec, cfg: &EngineConfig) -> Result<Self> {
        let n_samples_max = cfg.scheduler.max_batch_size * SAMPLES_PER_SEQ;
        Ok(Self {
            area: area(cuda, N_WORDS)?,
            graphs: Graphs::new(cuda, cfg)?,
            sampler: DeviceSampler::new(cuda, n_samples_max, spec.vocab_size)?,
            n_samples_max,
            sampled: None,
            cuda: Arc::clone(cuda),
        })
    }

    /// Gives a step to the stream; nothing waits.
    pub(super) fn launch(
        &mut self,
        forward: &mut Forward<'_>,
        flat: &mut FlatStep<'_>,
        draws: &[(usize, Draw<'_>)],
    ) -> Result<Launched> {
        if let Some(sampled) = self.sampled.take() {
            flat.carry(&sampled);
        }
        if draws.len() > self.n_samples_max {
            return self.sample_in_turns(forward, flat, draws);
        }
        let samples = self.sampler.prepare(draws, flat.n_logit_rows())?;
        match self.graphs.fitting(flat, &samples) {
            Some(idx) => {
                self.graphs.run(idx, (flat, &samples), forward, &mut self.sampler)?;
            }
            None => self.run_as_it_is(forward, flat, &samples)?,
        }
        let sampled = self.sampler.fetch(samples.n_rows())?;
        Ok(Launched::OnGpu { sampled, media: flat.media.clone() })
    }

    /// Records the steps of all sizes.
    pub(super) fn warm_up(&mut self, forward: &mut Forward<'_>) -> Result<()> {
        let (flat, samples) = (FlatStep::default(), SampleBatch::default());
        for idx in 0..self.graphs.len() {
            self.graphs.run(idx, (&flat, &samples), forward, &mut self.sampler)?;
        }
        forward.device.synchronize()
    }

    /// Waits for the tokens of a step.
    pub(super) fn collect(&mut self, sampled: &Sampled) -> Result<Vec<Result<OutputToken>>> {
        self.sampler.take(sampled)
    }

    fn run_as_it_is(
        &mut self,
        forward: &mut Forward<'_>,
        flat: &FlatStep<'_>,
        samples: &SampleBatch,
    ) -> Result<()> {
        let mut pack = Pack::default();
        let step = PackedStep {
            rows: StepParts::pack(&mut pack, forward.model.spec(), &flat.input())?,
            sources: pack.add(flat.sources()),
            samples: samples.pack(&mut pack),
        };
        let packed = self.bring(&pack)?;
        let embeddings = &flat.embeddings;
        let logits = step.logits(&packed, embeddings, forward, self.sampler.tokens())?;
        self.sampler.launch(&logits, &step.samples.unpack(&packed)?)
    }

    /// More tokens than fit at a time: group after group, each waited for.
    fn sample_in_turns(
        &mut self,
        forward: &mut Forward<'_>,
        flat: &FlatStep<'_>,
        draws: &[(usize, Draw<'_>)],
    ) -> Result<Launched> {
        let mut pack = Pack::default();
        let step = PackedStep {
            rows: StepParts::pack(&mut pack, forward.model.spec(), &flat.input())?,
            sources: pack.add(flat.sources()),
            samples: SampleBatch::default().pack(&mut pack),
        };
        let packed = self.bring(&pack)?;
        let embeddings = &flat.embeddings;
        let logits = step.logits(&packed, embeddings, forward, self.sampler.tokens())?;
        let mut tokens = Vec::with_capacity(draws.len());
        for group in draws.chunks(self.n_samples_max) {
            let samples = self.sampler.prepare(group, flat.n_logit_rows())?;
            let mut pack = Pack::default();
            let parts = samples.pack(&mut pack);
            let packed = self.bring(&pack)?;
            self.sampler.launch(&logits, &parts.unpack(&packed)?)?;
            let sampled = self.sampler.fetch(samples.n_rows())?;
            tokens.extend(self.sampler.take(&sampled)?);
        }
        self.sampled = Some(known(&tokens));
        Ok(Launched::Done(tokens))
    }

    /// Copies a step's numbers to the device.
    fn bring(&mut self, pack: &Pack) -> Result<Packed> {
        let words = pack.words();
        if self.area.n_bytes() < size_of_val(words) {
            // Steps under way read the old one; the driver gives it back after them.
            self.area = area(&self.cuda, words.len().next_power_of_two())?;
        }
        pack.put(&self.cuda, &self.area)?;
        Ok(Packed::in_place(&self.area))
    }
}

impl PackedStep {
    /// The logits of the step's numbers at this place, after the step that sampled `sampled`.
    pub(super) fn logits(
        &self,
        packed: &Packed,
        embeddings: &[EmbeddingRows<'_>],
        forward: &mut Forward<'_>,
        sampled: &Tensor,
    ) -> Result<Tensor> {
        let mut step = self.rows.clone().unpack(packed, embeddings)?;
        let sources = packed.tensor(&self.sources, &[step.tokens.n_elements()])?;
        carry(forward.device, &mut step.tokens, sampled, &sources)?;
        forward.model.forward(forward.device, &step, forward.kv)
    }
}

/// Memory of a GPU for the numbers of a step.
///
/// Errors: there is none left.
pub(super) fn area(cuda: &Arc<Cuda>, n_words: usize) -> Result<Arc<SlabRange>> {
    let n_bytes = n_words * size_of::<u32>();
    let arena = Device::Cuda(Arc::clone(cuda)).arena(n_bytes.next_multiple_of(256))?;
    let range = Slab::new(arena).alloc(n_bytes);
    Ok(Arc::new(range.ok_or_else(|| Error::internal("an arena is too small for its area"))?))
}
