//! Who is there, kept in etcd.
//!
//! An instance is one key, `/triptych/v1/<namespace>/instances/<id>`, whose value is JSON that an
//! operator can read with `etcdctl get --prefix`. The key hangs on a lease, so it goes at once when
//! the instance withdraws, and after [`LEASE_TTL`] when its process dies.
//!
//! A lost etcd ends nothing. Registrations come back by themselves, even in an etcd that has
//! forgotten everything. A watch says [`SourceLost`], and begins anew with a snapshot when etcd is
//! back. Instances that etcd then lacks, perhaps only because their leases ended meanwhile, stay in
//! the snapshot, and [`REMOVAL_GRACE`] passes before anybody is reported as gone.
//!
//! Must not know what instances do.
//!
//! [`SourceLost`]: planes::MembershipEvent::SourceLost

mod config;
mod connection;
mod record;
mod registration;
mod source;
mod view;
mod watch;

pub use config::{EtcdConfig, Tls};
pub use registration::LEASE_TTL;
pub use source::SILENCE_MAX;
pub use view::REMOVAL_GRACE;

use connection::{Dialer, Failure};
use etcd_client::{Client, GetOptions};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use planes::{Discovery, Instance, MembershipEvent, Withdraw};
use record::Found;
use source::N_ANSWER_BYTES_MAX;
use std::sync::Arc;
use std::time::{Duration, Instant};
use types::Result;

/// The directory in etcd; every registration and every watch has a connection of its own.
struct EtcdDiscovery(Arc<EtcdConfig>);

impl Discovery for EtcdDiscovery {
    fn register(&self, instance: Instance) -> BoxFuture<'static, Result<Withdraw>> {
        registration::register(Arc::clone(&self.0), instance).boxed()
    }

    fn watch(&self) -> BoxStream<'static, MembershipEvent> {
        watch::watch(Arc::clone(&self.0)).boxed()
    }
}

/// The directory, once etcd has answered; tries again until the configuration's deadline.
///
/// Registering and watching must happen within a tokio runtime. A registration tries as long as
/// this did before it gives up.
///
/// # Errors
/// `InvalidInput` for a configuration that cannot work and `Forbidden` for credentials that etcd
/// refuses, both at once; `Unavailable` at the deadline, with the endpoints and the last cause.
pub async fn connect(config: EtcdConfig) -> Result<Arc<dyn Discovery>> {
    let config = Arc::new(config.checked()?);
    Dialer::new(Arc::clone(&config))
        .until_deadline(|client| probe(client, config.prefix()))
        .await?;
    Ok(Arc::new(EtcdDiscovery(config)))
}

/// What a look at etcd found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Which etcd answers, how fast, and how many instances it shows, in a sentence.
    pub said: String,
    /// Those of the instances that have another cluster key.
    pub n_other_keys: usize,
}

/// Looks at etcd, as a process would that joins.
///
/// # Errors
/// Those of [`connect`].
pub async fn check(config: EtcdConfig) -> Result<Checked> {
    let config = Arc::new(config.checked()?);
    let mut dialer = Dialer::new(Arc::clone(&config));
    let Probed { version, latency, n_instances } =
        dialer.until_deadline(|client| probe(client, config.prefix())).await?;
    let all = dialer.until_deadline(|client| records(client, config.prefix())).await?;
    let (endpoint, namespace) = (dialer.endpoint(), &config.namespace);
    let latency_ms = latency.as_secs_f64() * 1e3;
    let said = format!(
        "{version} at {endpoint} answers in {latency_ms:.1} ms and shows {n_instances} instance(s) \
         in the namespace `{namespace}`"
    );
    let ours = config.cluster_key.as_deref();
    let n_other_keys = all.iter().filter(|found| found.has_other_key(ours)).count();
    Ok(Checked { said, n_other_keys })
}

/// All instances that can be read.
async fn records(client: Client, prefix: String) -> std::result::Result<Vec<Found>, Failure> {
    let mut kv = client.kv_client().max_decoding_message_size(N_ANSWER_BYTES_MAX);
    let found = kv.get(prefix, Some(GetOptions::new().with_prefix())).await?;
    Ok(found.kvs().iter().filter_map(|pair| record::decode(pair.value()).ok()).collect())
}

struct Probed {
    version: String,
    latency: Duration,
    n_instances: i64,
}

/// Asks what needs a connection, credentials, the right to read, and a quorum.
async fn probe(mut client: Client, prefix: String) -> std::result::Result<Probed, Failure> {
    let count = || GetOptions::new().with_prefix().with_count_only();
    // The first question pays for the connection, the second shows what an answer costs.
    client.get(prefix.as_str(), Some(count())).await?;
    let asked = Instant::now();
    let n_instances = client.get(prefix, Some(count())).await?.count();
    let latency = asked.elapsed();
    // Some etcd give their version to administrators only, which is no failure.
    let status = client.status().await;
    let version = status.map_or("etcd".into(), |status| format!("etcd {}", status.version()));
    Ok(Probed { version, latency, n_instances })
}
