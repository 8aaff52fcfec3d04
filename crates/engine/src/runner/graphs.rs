//! Decode steps as recorded graphs, one for each of some numbers of sequences.
//!
//! All numbers of a step lie in one area of the device, each at the same place in every step of a
//! size; a smaller step is filled up with rows that stand in for nothing. So a step is one copy and
//! one launch. A size is recorded when it is first needed, after its first step has run as it is:
//! by then everything is loaded and allocated. Scratch memory is the same in each replay, which is
//! safe because all is on one stream and nothing in it outlives a step.

use super::flat::FlatStep;
use super::gpu::{Forward, PackedStep, area};
use crate::config::EngineConfig;
use models::StepParts;
use std::sync::Arc;
use tensor::SlabRange;
use tensor::cuda::{Cuda, Graph};
use tensor::ops::carry::KNOWN;
use tensor::ops::sample::{DeviceSampler, SampleBatch};
use tensor::ops::{Pack, Packed, Room};
use types::{Error, Result};

/// Changed logits (by bias, penalties or `min_tokens`) that there is room for, for each sequence.
const ADJUSTMENTS_PER_SEQ: usize = 8;

/// The recorded steps.
pub(super) struct Graphs {
    cuda: Arc<Cuda>,
    /// By size.
    sizes: Vec<Recorded>,
    /// Where a step's numbers lie.
    area: Option<Arc<SlabRange>>,
}

/// Steps of up to so many sequences.
struct Recorded {
    room: Room,
    graph: Option<Graph>,
}

impl Graphs {
    /// Errors: the device has no memory left.
    pub(super) fn new(cuda: &Arc<Cuda>, cfg: &EngineConfig) -> Result<Self> {
        let limits = &cfg.scheduler;
        let mut sizes: Vec<usize> = cfg.graph_batch_sizes.clone();
        sizes.retain(|size| (1..=limits.max_batch_size).contains(size));
        sizes.sort_unstable();
        sizes.dedup();
        let room = |&n_seqs: &usize| Room {
            n_seqs,
            n_keys_max: limits.seq_len_max(),
            block_size: limits.block_size,
            spare_block: limits.n_blocks as u32,
        };
        let sizes: Vec<_> =
            sizes.iter().map(|size| Recorded { room: room(size), graph: None }).collect();
        let mut graphs = Self { cuda: Arc::clone(cuda), sizes, area: None };
        if let Some(largest) = graphs.sizes.last() {
            graphs.area = Some(area(cuda, n_words_max(largest.room)?)?);
        }
        Ok(graphs)
    }

    /// The index of the smallest size that a step fits into; none where it must run as it is.
    pub(super) fn fitting(&self, flat: &FlatStep<'_>, samples: &SampleBatch) -> Option<usize> {
        let n_seqs = flat.n_decoded(samples.n_rows())?;
        let fits = |recorded: &Recorded| {
            let room = recorded.room.n_seqs;
            n_seqs <= room && samples.n_adjustments() <= room * ADJUSTMENTS_PER_SEQ
        };
        self.sizes.iter().position(fits)
    }

    /// Runs a step in the form of size `idx`, up to its sampled tokens.
    ///
    /// Errors: the device fails, or cannot record the step.
    pub(super) fn run(
        &mut self,
        idx: usize,
        (flat, samples): (&FlatStep<'_>, &SampleBatch),
        forward: &mut Forward<'_>,
        sampler: &mut DeviceSampler,
    ) -> Result<()> {
        let recorded = &mut self.sizes[idx];
        let area = self.area.as_ref().ok_or_else(|| Error::internal("graphs without an area"))?;
        let (pack, step) = pack(recorded.room, flat, samples)?;
        pack.put(&self.cuda, area)?;
        if self.cuda.scratch_bytes().0 != 0 {
            return Err(Error::internal("scratch memory is in use between two steps"));
        }
        if let Some(graph) = &recorded.graph {
            return graph.launch(self.cuda.stream());
        }
        let packed = Packed::in_place(area);
        let rows = step.samples.unpack(&packed)?;
        let mut give = || {
            let logits = step.logits(&packed, &[], forward, sampler.tokens())?;
            sampler.launch(&logits, &rows)
        };
        give()?;
        recorded.graph = Some(self.cuda.stream().capture(give)?);
        Ok(())
    }

    /// How many sizes there are.
    pub(super) fn len(&self) -> usize {
        self.sizes.len()
    }
}

/// The numbers of a step, each in its place.
fn pack(room: Room, flat: &FlatStep<'_>, samples: &SampleBatch) -> Result<(Pack, PackedStep)> {
    let mut pack = Pack::default();
    let n_adjustments = room.n_seqs * ADJUSTMENTS_PER_SEQ;
    let samples = samples.pack_in(&mut pack, room.n_seqs, n_adjustments);
    let sources = pack.add_padded(flat.sources(), room.n_seqs, KNOWN);
    let rows = StepParts::pack_in(&mut pack, &flat.input(), room)?;
    Ok((pack, PackedStep { rows, sources, samples }))
}

/// The most words that the steps of a size have: those of one without sequences, and all blocks.
fn n_words_max(room: Room) -> Result<usize> {
    let (pack, _) = pack(room, &FlatStep::default(), &SampleBatch::default())?;
    Ok(pack.words().len() + room.n_seqs * room.n_keys_max.div_ceil(room.block_size))
}
