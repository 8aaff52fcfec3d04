//! What the system needs of the world around it, in three small traits: [`Discovery`] (who is
//! there), [`Messaging`] (requests and streams of answers) and [`Transport`] (bulk bytes from
//! memory to memory), with the values they speak in and the laws every implementation obeys.
//!
//! Must not know etcd, NATS, UCX, tokio, or what the messages mean.

pub mod cluster_key;
pub mod conformance;
pub mod discovery;
mod handed;
pub mod lease;
pub mod measure;
pub mod messaging;
pub mod pulse;
pub mod random;
pub mod reply;
pub mod strangers;
pub mod table_address;
pub mod transport;
pub mod transports;
pub mod withdraw;

pub use cluster_key::{ClusterKey, Side, authenticate};
pub use discovery::{Discovery, Instance, MembershipEvent};
pub use lease::{LeaseTable, LeasedMemory, Reaper};
pub use messaging::{Address, Call, Handler, Messaging, Replies};
pub use pulse::{Beat, Pulse};
pub use reply::{ReplySender, reply_stream};
pub use strangers::{Stranger, Strangers};
pub use transport::{Destination, Memory, Region, RemoteHandle, Source, Transport, owner_lost};
pub use transports::Transports;
pub use withdraw::Withdraw;

use std::sync::Arc;

/// One implementation of each plane, as a process is wired.
#[derive(Clone)]
pub struct Planes {
    /// Who is there.
    pub discovery: Arc<dyn Discovery>,
    /// Requests and streams of answers.
    pub messaging: Arc<dyn Messaging>,
    /// Bulk bytes.
    pub transport: Arc<dyn Transport>,
    /// Whether peers are other processes, which give this one up when it stands still.
    pub are_apart: bool,
}
