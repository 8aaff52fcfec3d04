//! Who is there: instances register under a lease, everybody else watches.

use crate::messaging::Address;
use crate::withdraw::Withdraw;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use types::content::Digest;
use types::kv::KvLayout;
use types::stage::Stages;
use types::{InstanceId, Result};

/// One worker as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// This life of it.
    pub id: InstanceId,
    /// The served model's name.
    pub model: String,
    /// Digest of its model card; only instances with the same one work together.
    pub card: Digest,
    /// What it can do.
    pub stages: Stages,
    /// Where it takes requests.
    pub address: Address,
    /// Where it serves its memory, one address for each transport, best first.
    pub transports: Vec<String>,
    /// How its KV blocks are laid out; `None` when it holds none.
    pub kv: Option<KvLayout>,
    /// The only encoders whose rows it takes, by the beginning of their addresses
    /// (`dynamo.encode.generate`); `None` when it takes anybody's.
    pub encode_endpoint: Option<String>,
}

/// A change of who is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MembershipEvent {
    /// All that are there; the first event of a watch, and the first after a lost source returned.
    Snapshot(Vec<Instance>),
    /// One more is there.
    Joined(Instance),
    /// One withdrew or was lost.
    Left(InstanceId),
    /// The source is out of reach: what is known may be stale until the next snapshot.
    SourceLost,
}

/// The directory of instances.
pub trait Discovery: Send + Sync {
    /// Makes `instance` visible until the returned promise is dropped.
    fn register(&self, instance: Instance) -> BoxFuture<'static, Result<Withdraw>>;

    /// Who is there, from now on: a snapshot, then every change. Ends only with the process.
    fn watch(&self) -> BoxStream<'static, MembershipEvent>;
}
