//! An NVIDIA GPU: its context, one stream, memory, and the launching of kernels.
//!
//! The driver's library is opened when a device is asked for; a program without it starts as well.
//! Must not know operations: each has its launch beside its contract in [`crate::ops`].

mod blas;
mod blas_choices;
mod blas_sys;
mod context;
mod error;
mod installed;
mod launch;
mod part;
mod pinned;
mod scratch;
mod staging;
mod stream;
mod tensor_map;
mod trace;
mod uploads;
mod weights;

pub use blas_choices::GemmChoices;
pub use context::{Context, MemoryInfo};
pub use installed::{driver_version, is_blas_installed};
pub use launch::{Arg, Grid};
pub use pinned::Pinned;
pub use stream::{Event, Graph, Stream, Urgency};
pub use trace::TracedLaunch;

pub(crate) use blas::{Gemm, Shape as GemmShape, Workspace};
pub(crate) use context::Allocation;
pub(crate) use error::checked;
pub(crate) use staging::Upload;
pub(crate) use tensor_map::TensorMap;

use crate::dtype::DType;
use crate::slab::SlabRange;
use crate::tensor::Tensor;
use blas::Blas;
use cudarc::driver::result;
use scratch::Scratch;
use staging::Staging;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use types::{Error, Result};
use uploads::Uploads;
use weights::Loading;

/// How a GPU is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CudaOptions {
    /// Which of the visible GPUs, from 0.
    pub ordinal: usize,
    /// What flows between operations, and what weights are kept in: f32, bf16 or f16.
    pub compute: DType,
    /// Whether every result is independent of what else is computed with it, at some cost.
    pub deterministic: bool,
}

/// A lane of a GPU: a stream, its scratch memory, and a compute type. Everything that is given to
/// one lane happens in order.
pub struct Cuda {
    context: Arc<Context>,
    /// A stream for each urgency, once somebody has asked for it.
    streams: [OnceLock<Stream>; Urgency::ALL.len()],
    /// Which of them is given work now.
    urgency: AtomicUsize,
    scratch: Scratch,
    options: CudaOptions,
    blas: Blas,
    uploads: Uploads,
    loading: Loading,
}

impl Cuda {
    /// Opens a GPU.
    ///
    /// Errors (`Unavailable`, in words): no driver, no such GPU, no kernels in this program.
    pub fn open(options: CudaOptions) -> Result<Arc<Self>> {
        if !matches!(options.compute, DType::F32 | DType::Bf16 | DType::F16) {
            return Err(Error::invalid("a GPU computes in f32, bf16 or f16"));
        }
        Self::on(Context::open(options.ordinal)?, options, Urgency::Now)
    }

    /// Another lane of the same GPU, with a stream and scratch memory of its own.
    ///
    /// Errors: the driver refuses.
    pub fn another_lane(&self, urgency: Urgency) -> Result<Arc<Self>> {
        Self::on(Arc::clone(&self.context), self.options, urgency)
    }

    fn on(context: Arc<Context>, options: CudaOptions, urgency: Urgency) -> Result<Arc<Self>> {
        let streams = Urgency::ALL.map(|_| OnceLock::new());
        get_or_try_init(&streams[urgency as usize], || Stream::new(&context, urgency))?;
        let scratch = Scratch::new(&context);
        Ok(Arc::new(Self {
            context,
            streams,
            urgency: AtomicUsize::new(urgency as usize),
            scratch,
            options,
            blas: Blas::default(),
            uploads: Uploads::default(),
            loading: Loading::default(),
        }))
    }

    /// What all lanes share.
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Where everything of this lane happens, until its urgency changes.
    pub fn stream(&self) -> &Stream {
        let current = self.streams[self.urgency.load(Ordering::Relaxed)].get();
        current.expect("the current stream was made before it became that")
    }

    /// What is given from now on is as urgent as this; it begins after all that was given before.
    /// Only whoever gives work to this lane may call this.
    ///
    /// Errors: the driver refuses.
    pub fn set_urgency(&self, urgency: Urgency) -> Result<()> {
        let (before, idx) = (self.stream(), urgency as usize);
        if before.urgency() == urgency {
            return Ok(());
        }
        let next = get_or_try_init(&self.streams[idx], || Stream::new(&self.context, urgency))?;
        let given = Event::new(&self.context, false)?;
        before.record(&given)?;
        next.wait_for(&given)?;
        self.urgency.store(idx, Ordering::Relaxed);
        Ok(())
    }

    /// How the GPU is used.
    pub fn options(&self) -> &CudaOptions {
        &self.options
    }

    /// Memory for something that lives as long as an operation or a step. Once dropped it is used
    /// again by whatever comes later on this stream.
    ///
    /// Errors: the GPU has not that much memory.
    pub(crate) fn scratch(&self, n_bytes: usize) -> Result<SlabRange> {
        self.scratch.alloc(n_bytes)
    }

    /// Bytes of scratch memory in use, and taken from the GPU.
    pub fn scratch_bytes(&self) -> (usize, usize) {
        self.scratch.n_bytes()
    }

    /// Fills all free scratch memory with ones, which are NaN in every type of floats, so that
    /// tests see what an operation left unwritten.
    ///
    /// Errors: the driver refuses.
    pub fn poison_scratch(&self) -> Result<()> {
        self.scratch.poison(self.stream())
    }

    /// Copies bytes to the device, in order with everything else; `from` may be changed at once.
    /// Nobody waits for what was given before. The address has room for the bytes.
    ///
    /// Errors: the driver refuses; no memory can be locked.
    pub fn upload(&self, from: &[u8], to: u64) -> Result<()> {
        self.context.bind()?;
        if from.is_empty() {
            return Ok(());
        }
        self.uploads.send((&self.context, self.stream()), from, to)
    }

    /// Copies bytes of the device and waits for them.
    ///
    /// Errors: the driver refuses; something failed before on this stream.
    pub fn download(&self, from: u64, to: &mut [u8]) -> Result<()> {
        self.context.bind()?;
        if !to.is_empty() {
            // SAFETY: as in `upload`; the bytes are there once the stream has been waited for.
            let copied = unsafe { result::memcpy_dtoh_async(to, from, self.stream().raw()) };
            checked(copied, "copy from a GPU")?;
        }
        self.stream().synchronize()
    }

    /// Copies bytes inside the device.
    ///
    /// Errors: the driver refuses.
    pub fn copy(&self, from: u64, to: u64, n_bytes: usize) -> Result<()> {
        self.context.bind()?;
        if n_bytes == 0 {
            return Ok(());
        }
        // SAFETY: both addresses have that many bytes (tensors', checked there).
        let copied = unsafe { result::memcpy_dtod_async(to, from, n_bytes, self.stream().raw()) };
        checked(copied, "copy inside a GPU")
    }

    /// Sets all bytes of a tensor.
    ///
    /// Errors: the driver refuses.
    pub fn fill(&self, tensor: &mut Tensor, byte: u8) -> Result<()> {
        self.stream().fill(tensor.address(), byte, tensor.n_bytes())
    }
}

/// Two threads may both make a value; the first one stays.
fn get_or_try_init<T>(cell: &OnceLock<T>, make: impl FnOnce() -> Result<T>) -> Result<&T> {
    if let Some(value) = cell.get() {
        return Ok(value);
    }
    let value = make()?;
    Ok(cell.get_or_init(|| value))
}

impl std::fmt::Debug for Cuda {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cuda({}, {})", self.options.ordinal, self.options.compute.name())
    }
}
