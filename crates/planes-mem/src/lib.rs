//! All three planes inside one process: a table of instances, a table of handlers, and `memcpy`.
//!
//! First-class, not a test double: `triptych serve` runs on it, and it obeys the same laws as the
//! planes between processes. Must not know what travels.

mod discovery;
mod messaging;
mod transport;

use planes::Planes;
use std::sync::Arc;

/// Fresh planes, shared by everything in this process that is handed a clone.
pub fn planes() -> Planes {
    Planes {
        discovery: Arc::new(discovery::MemDiscovery::default()),
        messaging: Arc::new(messaging::MemMessaging::default()),
        transport: Arc::new(transport::MemTransport::default()),
        are_apart: false,
    }
}
