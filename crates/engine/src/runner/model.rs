//! A model at work: steps, and the encoding of media.

use super::flat::FlatStep;
use super::gpu::{Forward, GpuSteps};
use super::host::HostSteps;
use super::{Launched, StepWork};
use crate::config::EngineConfig;
use models::{Model, Positions, PreparedMedia};
use std::sync::Arc;
use tensor::cuda::{Event, Urgency};
use tensor::ops::sample::Sampled;
use tensor::ops::{copy_blocks, copy_to_range};
use tensor::{Device, KvPool, SlabRange};
use types::output::OutputToken;
use types::prompt::ExpandedPrompt;
use types::{Error, Result};

/// A model, its device and its cache.
pub(crate) struct ModelRunner {
    model: Arc<dyn Model>,
    device: Device,
    /// Where media are encoded, beside the steps.
    tower: Device,
    kv: KvPool,
    steps: Steps,
}

/// How steps are run, by device.
enum Steps {
    Host(HostSteps),
    Gpu(Box<GpuSteps>),
}

impl ModelRunner {
    pub(super) fn new(
        (model, device): (Arc<dyn Model>, Device),
        kv: KvPool,
        cfg: &EngineConfig,
    ) -> Result<Self> {
        let steps = match &device {
            Device::Cpu(_) => Steps::Host(HostSteps::default()),
            Device::Cuda(cuda) => Steps::Gpu(Box::new(GpuSteps::new(cuda, model.spec(), cfg)?)),
        };
        // What was given to the lane until now, the model's weights above all, is there for others.
        device.synchronize()?;
        let tower = match &cfg.tower {
            Some(lane) => lane.clone(),
            None => device.another_lane(Urgency::Later)?,
        };
        Ok(Self { model, device, tower, kv, steps })
    }

    /// Gives media to the lane of the tower, which shares the GPU as `urgency` says; the rows are
    /// there once the event has come.
    pub(super) fn encode(
        &self,
        urgency: Urgency,
        media: &[&PreparedMedia],
        places: &mut [&mut SlabRange],
    ) -> Result<Option<Event>> {
        if let Device::Cuda(cuda) = &self.tower {
            cuda.set_urgency(urgency)?;
        }
        let rows = self.model.encode(&self.tower, media)?;
        let n_rows: usize = media.iter().map(|one| one.plan.n_tokens as usize).sum();
        if rows.n_rows() != n_rows {
            return Err(Error::internal("the tower made other rows than were planned"));
        }
        let mut first = 0;
        for (medium, place) in media.iter().zip(places) {
            let own = first..first + medium.plan.n_tokens as usize;
            first = own.end;
            copy_to_range(&self.tower, &rows, own, place)?;
        }
        match &self.tower {
            Device::Cpu(_) => Ok(None),
            Device::Cuda(cuda) => {
                let done = Event::new(cuda.context(), false)?;
                cuda.stream().record(&done)?;
                Ok(Some(done))
            }
        }
    }

    /// Makes ready what would otherwise be made at the first step that needs it.
    pub(super) fn warm_up(&mut self) -> Result<()> {
        if let Device::Cuda(cuda) = &self.tower {
            for urgency in [Urgency::Now, Urgency::Apart, Urgency::Later] {
                cuda.set_urgency(urgency)?;
            }
        }
        let (model, device, kv) = (&*self.model, &self.device, &mut self.kv);
        match &mut self.steps {
            Steps::Host(_) => Ok(()),
            Steps::Gpu(steps) => steps.warm_up(&mut Forward { model, device, kv }),
        }
    }

    pub(super) fn positions(&self, prompt: &ExpandedPrompt) -> Positions {
        self.model.positions(prompt)
    }

    pub(super) fn launch(&mut self, work: &StepWork<'_>) -> Result<Launched> {
        let copies: Vec<_> = work.batch.copies.iter().map(|copy| (copy.from, copy.to)).collect();
        copy_blocks(&self.device, &mut self.kv, &copies)?;
        let mut flat = FlatStep::new(work)?;
        let draws = work.draws()?.into_iter().map(|(seq, draw)| (flat.logits_of[seq], draw));
        let draws: Vec<_> = draws.collect();
        let (model, device, kv) = (&*self.model, &self.device, &mut self.kv);
        let mut forward = Forward { model, device, kv };
        match &mut self.steps {
            Steps::Host(steps) => steps.launch(&mut forward, &mut flat, &draws),
            Steps::Gpu(steps) => steps.launch(&mut forward, &mut flat, &draws),
        }
    }

    pub(super) fn collect(&mut self, sampled: &Sampled) -> Result<Vec<Result<OutputToken>>> {
        match &mut self.steps {
            Steps::Gpu(steps) => steps.collect(sampled),
            Steps::Host(_) => Err(Error::internal("a step came from another device")),
        }
    }

    pub(super) fn synchronize(&self) -> Result<()> {
        self.tower.synchronize()?;
        self.device.synchronize()
    }
}
