//! One instance's key, kept in etcd for as long as its promise lives.
//!
//! A task holds it: it renews the lease, and when the lease or etcd is lost it writes the key anew,
//! for as long as it takes. It ends when the promise is dropped, at the latest one [`LEASE_TTL`]
//! later, for then the lease has ended by itself.
//!
//! Must not know who watches.

use crate::config::EtcdConfig;
use crate::connection::{Dialer, Failure, grpc_code};
use crate::record;
use etcd_client::{Client, LeaseGrantOptions, PutOptions};
use planes::{Instance, Withdraw, random};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use types::Result as OurResult;

/// How long the key of an instance outlives the process that held it.
///
/// etcd's shortest is 2 s with its default election timeout, and it looks for ended leases each
/// 0.5 s. One second more keeps a pause of 2 s (a slow disk, an election) from removing anybody.
/// Nothing waits for it: callers notice a dead peer by the silence of its messages.
pub const LEASE_TTL: Duration = Duration::from_secs(3);

/// Time between two renewals. They cost no disk and no agreement among the members. A lease thus
/// has at least 2.5 s left when etcd stops, and a watch notices within
/// [`SILENCE_MAX`](crate::SILENCE_MAX), before etcd can tell it of a lease that ended meanwhile.
const RENEW_INTERVAL: Duration = Duration::from_millis(500);

/// Longest wait for the answer to a renewal.
const RENEW_TIMEOUT: Duration = Duration::from_secs(1);

/// gRPC's code for a lease that is there already.
const FAILED_PRECONDITION: i32 = 9;

/// What is written, and under which lease.
struct Entry {
    key: String,
    value: String,
    /// We choose it, and it never changes: whatever we sent and gave up waiting for may still
    /// arrive late, and then does what was last meant. 63 random bits are nobody else's.
    lease: i64,
}

/// An entry that is in etcd, and the connection that it was written over.
struct Registration {
    entry: Arc<Entry>,
    dialer: Dialer,
    client: Client,
}

pub(crate) async fn register(config: Arc<EtcdConfig>, instance: Instance) -> OurResult<Withdraw> {
    let entry = Arc::new(Entry {
        key: record::key(&config.prefix(), instance.id),
        value: record::encode(&instance, config.cluster_key.as_deref()),
        lease: (random::request_id().0 as i64 & i64::MAX).max(1),
    });
    let mut dialer = Dialer::new(config);
    let client = dialer.until_deadline(|client| write(client, Arc::clone(&entry))).await?;
    let (promise, withdrawn) = oneshot::channel();
    tokio::spawn(Registration { entry, dialer, client }.hold(withdrawn));
    Ok(Withdraw::on_drop(move || drop::<oneshot::Sender<()>>(promise)))
}

/// Writes the entry; over one that is there already, too. Returns the connection.
async fn write(mut client: Client, entry: Arc<Entry>) -> Result<Client, Failure> {
    let options = LeaseGrantOptions::new().with_id(entry.lease);
    match client.lease_grant(LEASE_TTL.as_secs() as i64, Some(options)).await {
        Ok(_) => {}
        Err(error) if grpc_code(&error) == Some(FAILED_PRECONDITION) => {}
        Err(error) => return Err(error.into()),
    }
    let options = PutOptions::new().with_lease(entry.lease);
    client.put(entry.key.as_str(), entry.value.as_str(), Some(options)).await?;
    Ok(client)
}

impl Registration {
    async fn hold(mut self, withdrawn: oneshot::Receiver<()>) {
        tokio::select! {
            _ = withdrawn => {}
            never = self.stay() => match never {},
        }
        // Out of reach, the lease ends by itself; so nobody needs to hear of a failure.
        let _ = timeout(LEASE_TTL, self.revoke()).await;
    }

    async fn stay(&mut self) -> Infallible {
        loop {
            let Err(failure) = self.renew().await;
            let (key, cause) = (&self.entry.key, failure.cause());
            tracing::warn!(key, cause, "lost the registration in etcd, registering again");
            self.dialer.move_on();
            self.write_again().await;
            tracing::info!(key = self.entry.key, "registered in etcd again");
        }
    }

    /// Renews the lease until that fails.
    async fn renew(&mut self) -> Result<Infallible, Failure> {
        let stream = self.client.lease_keep_alive(self.entry.lease);
        let (mut requests, mut answers) = in_time(stream).await?;
        loop {
            sleep(RENEW_INTERVAL).await;
            requests.keep_alive().await?;
            let answer = in_time(answers.message()).await?;
            if answer.is_none_or(|answer| answer.ttl() <= 0) {
                return Err(Failure::passing("the lease has ended"));
            }
        }
    }

    async fn write_again(&mut self) {
        loop {
            let attempt = self.dialer.attempt(|client| write(client, Arc::clone(&self.entry)));
            match attempt.await {
                Ok(client) => return self.client = client,
                Err(failure) => tracing::debug!(cause = failure.cause(), "not registered yet"),
            }
        }
    }

    /// Ends the lease and with it the key: over the connection at hand, or else over a new one.
    async fn revoke(&mut self) -> Result<(), Failure> {
        let lease = self.entry.lease;
        if in_time(self.client.lease_revoke(lease)).await.is_ok() {
            return Ok(());
        }
        let revoke = |mut client: Client| async move { Ok(client.lease_revoke(lease).await?) };
        self.dialer.attempt(revoke).await.map(drop)
    }
}

async fn in_time<T>(
    asked: impl Future<Output = Result<T, etcd_client::Error>>,
) -> Result<T, Failure> {
    match timeout(RENEW_TIMEOUT, asked).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Failure::passing(format!("no answer within {RENEW_TIMEOUT:?}"))),
    }
}
