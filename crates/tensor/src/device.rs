//! Where tensors live and operations run. A closed list: a new device is a new variant, and the
//! compiler then names every operation that must learn of it.

use crate::arena::Arena;
use crate::cuda::{Cuda, CudaOptions, Urgency};
use crate::dtype::DType;
use crate::threads::Threads;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use types::Result;

/// A place to compute; cheap to clone.
#[derive(Clone)]
pub enum Device {
    /// The processor, with its own compute threads.
    Cpu(Arc<Threads>),
    /// A lane of an NVIDIA GPU.
    Cuda(Arc<Cuda>),
}

impl Device {
    /// The processor, with `n_threads` compute threads, of which the caller of an operation is one.
    pub fn cpu(n_threads: NonZeroUsize) -> Self {
        Self::Cpu(Arc::new(Threads::start(n_threads)))
    }

    /// The processor with as many threads as this process may run at once.
    pub fn all_cpus() -> Self {
        Self::cpu(std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN))
    }

    /// A GPU.
    ///
    /// Errors (`Unavailable`, in words): no driver, no such GPU, no kernels in this program.
    pub fn cuda(options: CudaOptions) -> Result<Self> {
        Ok(Self::Cuda(Cuda::open(options)?))
    }

    /// Another order of work on the same device, for what may run beside the rest: a GPU's further
    /// stream; the processor is its own.
    ///
    /// Errors: the driver refuses.
    pub fn another_lane(&self, urgency: Urgency) -> Result<Self> {
        match self {
            Self::Cpu(threads) => Ok(Self::Cpu(Arc::clone(threads))),
            Self::Cuda(cuda) => Ok(Self::Cuda(cuda.another_lane(urgency)?)),
        }
    }

    /// The type of what flows between operations.
    pub fn compute_dtype(&self) -> DType {
        match self {
            Self::Cpu(_) => DType::F32,
            Self::Cuda(cuda) => cuda.options().compute,
        }
    }

    /// Reserves one plain allocation of zeros.
    ///
    /// Errors: the device has not that much memory.
    pub fn arena(&self, n_bytes: usize) -> Result<Arc<Arena>> {
        match self {
            Self::Cpu(_) => Arena::host(n_bytes),
            Self::Cuda(cuda) => cuda.context().arena(n_bytes),
        }
    }

    /// Waits until everything given to this device is done.
    ///
    /// Errors: something failed on the way.
    pub fn synchronize(&self) -> Result<()> {
        match self {
            Self::Cpu(_) => Ok(()),
            Self::Cuda(cuda) => cuda.stream().synchronize(),
        }
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu(threads) => write!(f, "Cpu({} threads)", threads.n_threads()),
            Self::Cuda(cuda) => cuda.fmt(f),
        }
    }
}
