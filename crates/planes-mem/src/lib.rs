//! All three planes inside one process: a table of instances, a table of handlers, and `memcpy`.
//!
//! First-class, not a test double: `triptych serve` runs on it, and it obeys the same laws as the
//! planes between processes. Must not know what travels.

mod discovery;
mod messaging;
mod transport;

use planes::Planes;
use std::sync::Arc;

pub use transport::CopyByGpu;

/// Fresh planes, shared by everything in this process that is handed a clone.
pub fn planes() -> Planes {
    planes_with(None)
}

/// The same, with a way to copy the memory of GPUs, if there is any.
pub fn planes_with(copy_by_gpu: Option<Arc<CopyByGpu>>) -> Planes {
    Planes {
        discovery: Arc::new(discovery::MemDiscovery::default()),
        messaging: Arc::new(messaging::MemMessaging::default()),
        transport: Arc::new(transport::MemTransport::new(copy_by_gpu)),
        are_apart: false,
    }
}
