//! Memory of weights, which is taken when a model is loaded and given back with it.

use super::{Context, Cuda, Staging, Upload};
use crate::dtype::DType;
use crate::slab::{Slab, SlabRange};
use crate::tensor::Tensor;
use std::sync::{Arc, Mutex, PoisonError};
use types::{Error, Result};

/// Weights from this size on have an allocation of their own.
const OWN_BYTES_MIN: usize = 8 << 20;
/// Smaller ones share allocations of this size.
const CHUNK_BYTES: usize = 32 << 20;
/// Every weight starts at a multiple of this many bytes.
const ALIGNMENT: usize = 256;

/// Where the next weights go, and the way there.
#[derive(Default)]
pub(super) struct Loading {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Where small weights go until it is full.
    chunk: Option<Arc<Slab>>,
    staging: Option<Staging>,
}

impl Loading {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn place(&mut self, context: &Arc<Context>, n_bytes: usize) -> Result<SlabRange> {
        // All ranges are multiples of the alignment, so all of them start at one.
        let size = n_bytes.max(1).next_multiple_of(ALIGNMENT);
        if let Some(range) = self.chunk.as_ref().and_then(|chunk| chunk.alloc(size)) {
            return Ok(range);
        }
        let is_large = size >= OWN_BYTES_MIN;
        let slab = Slab::new(context.arena(if is_large { size } else { CHUNK_BYTES })?);
        let range = slab.alloc(size);
        if !is_large {
            self.chunk = Some(slab);
        }
        range.ok_or_else(|| Error::internal("fresh memory of weights is too small"))
    }
}

impl Cuda {
    /// Memory for part of a model; given back when dropped.
    ///
    /// Errors: the GPU has not that much memory.
    pub(crate) fn weight_memory(&self, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        let n_bytes = shape.iter().product::<usize>() * dtype.n_bytes();
        let range = self.loading.lock().place(self.context(), n_bytes)?;
        Tensor::within(&Arc::new(range), 0, dtype, shape)
    }

    /// Copies much from memory that the GPU cannot read, in order with everything else here.
    ///
    /// Errors: the driver refuses; no memory can be locked.
    pub(crate) fn send(&self, to: u64, upload: &Upload<'_>) -> Result<()> {
        if upload.n_units == 0 {
            return Ok(());
        }
        self.context().bind()?;
        let mut state = self.loading.lock();
        if state.staging.is_none() {
            state.staging = Some(Staging::new(self.context())?);
        }
        let staging = state.staging.as_mut();
        let staging = staging.ok_or_else(|| Error::internal("the staging was just made"))?;
        staging.send(self.stream(), to, upload)
    }

    /// Gives back what only loading needs: threads and page-locked memory. They come again when
    /// they are needed.
    pub fn end_loading(&self) {
        *self.loading.lock() = State::default();
    }
}
