//! Where tensors live and operations run. A closed list: a new device is a new variant, and the
//! compiler then names every operation that must learn of it.

use crate::threads::Threads;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;

/// A place to compute; cheap to clone.
#[derive(Clone)]
pub enum Device {
    /// The processor, with its own compute threads.
    Cpu(Arc<Threads>),
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
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu(threads) => write!(f, "Cpu({} threads)", threads.n_threads()),
        }
    }
}
