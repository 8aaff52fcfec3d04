//! From the configuration to planes: the only place that names concrete ones.

use crate::system::System;
use crate::transport_host::TransportHost;
use config::cluster::{ClusterConfig, TransportChoice};
use config::etcd::EtcdConfig;
use config::nats::{NatsAuth, NatsConfig};
use discovery_etcd::EtcdConfig as EtcdParts;
use messaging_nats::{NatsAuth as AuthParts, NatsConfig as NatsParts, NatsTls as NatsTlsParts};
use planes::{ClusterKey, Discovery, Messaging, Planes, Transport, Transports};
use planes_mem::CopyByGpu;
use std::sync::Arc;
use std::time::Duration;
use transport_tcp::TcpConfig;
use transport_ucx::UcxConfig;
use types::{Error, Result};

/// Connects to the cluster as `name`, waiting for etcd and NATS up to the start deadline.
///
/// `system` says meanwhile what is waited for; `by_gpu` copies the memory of GPUs in this process.
/// Errors say which flag names what could not be
/// reached.
pub async fn connect(
    cluster: &ClusterConfig,
    name: &str,
    system: &System,
    by_gpu: Option<Arc<CopyByGpu>>,
) -> Result<Planes> {
    let servers = servers(cluster);
    if !servers.is_empty() {
        tracing::info!("connecting to {servers}");
        system.starting(&format!("connecting to {servers}"));
    }
    let memory = planes_mem::planes_with(by_gpu);
    // First, because it fails at once where it does.
    let transport = match cluster.transport {
        TransportChoice::Mem => memory.transport,
        TransportChoice::Tcp | TransportChoice::Ucx | TransportChoice::Auto => {
            transport(cluster, TransportHost::of(cluster).await)?
        }
    };
    let discovery = async {
        match &cluster.etcd {
            Some(etcd) => discovery(cluster, etcd).await,
            None => Ok(memory.discovery),
        }
    };
    let messaging = async {
        match &cluster.nats {
            Some(nats) => messaging(cluster, nats, name).await,
            None => Ok(memory.messaging),
        }
    };
    let (discovery, messaging) = tokio::try_join!(discovery, messaging)?;
    let are_apart = cluster.etcd.is_some() || cluster.nats.is_some();
    Ok(Planes { discovery, messaging, transport, are_apart })
}

/// What a process of this cluster cannot start without, in words.
fn servers(cluster: &ClusterConfig) -> String {
    let etcd = cluster.etcd.as_ref().map(|etcd| format!("etcd at {}", etcd.endpoints.join(",")));
    let nats = cluster.nats.as_ref().map(|nats| format!("NATS at {}", nats.shown()));
    let servers: Vec<String> = [etcd, nats].into_iter().flatten().collect();
    servers.join(" and ")
}

async fn discovery(cluster: &ClusterConfig, etcd: &EtcdConfig) -> Result<Arc<dyn Discovery>> {
    let parts = etcd_parts(cluster, etcd, cluster.start_deadline)?;
    let shown = etcd.endpoints.join(",");
    discovery_etcd::connect(parts).await.map_err(at_flag(format!("--etcd-endpoints {shown}")))
}

async fn messaging(
    cluster: &ClusterConfig,
    nats: &NatsConfig,
    name: &str,
) -> Result<Arc<dyn Messaging>> {
    let parts = nats_parts(nats, name, cluster.start_deadline);
    let flag = format!("--nats-url {}", nats.shown());
    let connected = messaging_nats::connect(parts).await.map_err(at_flag(flag))?;
    Ok(connected)
}

/// Begins a message with the flag to look at.
fn at_flag(flag: String) -> impl FnOnce(Error) -> Error {
    move |error| Error { message: format!("{flag}: {}", error.message), ..error }
}

/// Every process serves TCP, so that peers without UCX can read from it as well.
fn transport(cluster: &ClusterConfig, host: TransportHost) -> Result<Arc<dyn Transport>> {
    let key = cluster_key(cluster)?;
    let TransportHost { listen, advertise } = host;
    let ucx = || {
        let (advertise, key) = (advertise.clone(), key.clone());
        transport_ucx::start(UcxConfig { listen, advertise, key })
    };
    let ucx = match cluster.transport {
        TransportChoice::Ucx => Some(ucx().map_err(at_flag("--transport ucx".to_owned()))?),
        TransportChoice::Auto => match ucx() {
            Ok(ucx) => Some(ucx),
            Err(error) => {
                tracing::info!("TCP carries all transfers, because UCX cannot be used: {error}");
                None
            }
        },
        TransportChoice::Tcp | TransportChoice::Mem => None,
    };
    let tcp = transport_tcp::start(TcpConfig { listen, advertise, key })
        .map_err(at_flag("--transport-host".to_owned()))?;
    Ok(Arc::new(Transports::new(ucx.into_iter().chain([tcp]).collect())))
}

/// The key of the cluster. Errors: its file holds none.
pub(crate) fn cluster_key(cluster: &ClusterConfig) -> Result<ClusterKey> {
    match &cluster.cluster_key {
        Some(secret) => ClusterKey::from_bytes(secret.bytes()),
        None => Ok(ClusterKey::open()),
    }
}

/// etcd's adapter's words for our configuration. Errors: the file of the cluster's key holds none.
pub(crate) fn etcd_parts(
    cluster: &ClusterConfig,
    etcd: &EtcdConfig,
    start_deadline: Duration,
) -> Result<EtcdParts> {
    let tls = etcd.tls.as_ref().map(|tls| discovery_etcd::Tls {
        ca: tls.ca.as_ref().map(|pem| pem.bytes().to_vec()),
        identity: tls
            .identity
            .as_ref()
            .map(|(certificate, key)| (certificate.bytes().to_vec(), key.bytes().to_vec())),
        domain: tls.name.clone(),
    });
    let user = etcd.user.as_ref();
    Ok(EtcdParts {
        endpoints: etcd.endpoints.clone(),
        namespace: cluster.namespace.clone(),
        user: user.map(|(name, password)| (name.clone(), password.text().to_owned())),
        tls,
        cluster_key: Some(cluster_key(cluster)?.fingerprint()),
        start_deadline,
    })
}

/// NATS's adapter's words for our configuration.
pub(crate) fn nats_parts(nats: &NatsConfig, name: &str, deadline: Duration) -> NatsParts {
    let auth = match &nats.auth {
        NatsAuth::None => AuthParts::None,
        NatsAuth::UserPassword(user, password) => {
            AuthParts::UserPassword { user: user.clone(), password: password.text().to_owned() }
        }
        NatsAuth::Token(token) => AuthParts::Token(token.text().to_owned()),
        NatsAuth::NKey(seed) => AuthParts::NKey(seed.text().to_owned()),
        NatsAuth::CredentialsFile(path) => AuthParts::CredentialsFile(path.clone()),
    };
    let tls = nats.tls.as_ref();
    NatsParts {
        servers: nats.servers.iter().map(|url| url.whole().to_owned()).collect(),
        name: name.to_owned(),
        auth,
        tls: tls.map(|tls| NatsTlsParts { ca: tls.ca.clone(), identity: tls.identity.clone() }),
        start_deadline: deadline,
    }
}
