//! What ties processes together: where they find each other, what carries their requests and their
//! bulk bytes, and the secret that they share.

use crate::endpoint::parse_namespace;
use crate::engine_args::TransferBackend;
use crate::etcd::{EtcdConfig, EtcdFlags};
use crate::nats::{NatsConfig, NatsFlags};
use crate::secret::Hidden;
use crate::world::World;
use clap::ValueEnum;
use std::path::PathBuf;
use std::time::Duration;
use types::{Error, Result};

/// What users write about the cluster.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Cluster")]
pub struct ClusterFlags {
    /// Where instances register [default: etcd; mem in `triptych serve`].
    #[arg(long, env = "TRIPTYCH_DISCOVERY_BACKEND", value_enum)]
    pub discovery_backend: Option<DiscoveryChoice>,
    /// What carries requests between roles [default: nats; mem in `triptych serve`].
    #[arg(long, env = "TRIPTYCH_REQUEST_PLANE", value_enum)]
    pub request_plane: Option<RequestPlaneChoice>,
    /// What carries embeddings and KV blocks between roles [default: the engine YAML's
    /// `cache_transceiver_config.backend`, else auto; mem in `triptych serve`].
    #[arg(long, env = "TRIPTYCH_TRANSPORT", value_enum)]
    pub transport: Option<TransportChoice>,
    /// The address under which others reach this process's memory: an IP to listen on, or a name
    /// that leads here [default: listen on all, and let others use the address that this machine
    /// has on its way to etcd or NATS, or else to anywhere].
    #[arg(long, env = "TRIPTYCH_TRANSPORT_HOST", value_name = "IP|NAME")]
    pub transport_host: Option<String>,
    /// A file with the secret that all processes of a cluster share; without it whoever reaches
    /// the transport's ports may connect [default: none].
    #[arg(long, env = "TRIPTYCH_CLUSTER_KEY_FILE", value_name = "FILE")]
    pub cluster_key_file: Option<PathBuf>,
    /// First part of the names under which instances register; keeps clusters apart that share etcd
    /// and NATS.
    #[arg(
        long,
        env = "TRIPTYCH_NAMESPACE",
        value_name = "NAME",
        default_value = "dynamo",
        value_parser = parse_namespace
    )]
    pub namespace: String,
    /// How long to wait for etcd and NATS at the start, in seconds; then the process ends with an
    /// error.
    #[arg(long, env = "TRIPTYCH_START_TIMEOUT_S", value_name = "SECONDS", default_value_t = 60)]
    pub start_timeout_s: u64,
    /// etcd.
    #[command(flatten)]
    pub etcd: EtcdFlags,
    /// NATS.
    #[command(flatten)]
    pub nats: NatsFlags,
}

/// What `--discovery-backend` accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DiscoveryChoice {
    /// etcd, for any number of processes.
    Etcd,
    /// Memory of one process.
    Mem,
}

/// What `--request-plane` accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RequestPlaneChoice {
    /// NATS, for any number of processes.
    Nats,
    /// Memory of one process.
    Mem,
}

/// What `--transport` accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TransportChoice {
    /// UCX, and TCP for peers without it; an error where UCX is missing.
    Ucx,
    /// TCP alone.
    Tcp,
    /// Memory of one process.
    Mem,
    /// UCX where it is installed, and TCP.
    Auto,
}

/// What ties this process to others, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Where instances register; `None` is memory of this process.
    pub etcd: Option<EtcdConfig>,
    /// What carries requests; `None` is memory of this process.
    pub nats: Option<NatsConfig>,
    /// What carries bulk bytes.
    pub transport: TransportChoice,
    /// The address under which others reach this process's memory; `None` is any of this machine.
    pub transport_host: Option<String>,
    /// The secret that all processes of the cluster share.
    pub cluster_key: Option<Hidden>,
    /// First part of the names under which instances register.
    pub namespace: String,
    /// How long to wait for etcd and NATS at the start.
    pub start_deadline: Duration,
}

impl ClusterFlags {
    /// For a process of its own, which nothing in memory can tie to others.
    ///
    /// `yaml` is what the engine YAML says of the transport.
    pub fn resolve(self, yaml: TransferBackend, world: &World) -> Result<ClusterConfig> {
        let alone = |flag: &str, instead: &str| {
            Err(Error::invalid(format!(
                "{flag} mem: memory is shared inside one process only, so others could not reach \
                 this one; expected {instead}, or everything in one process with `triptych serve`"
            )))
        };
        if self.discovery_backend == Some(DiscoveryChoice::Mem) {
            return alone("--discovery-backend", "etcd");
        }
        if self.request_plane == Some(RequestPlaneChoice::Mem) {
            return alone("--request-plane", "nats");
        }
        let transport = self.transport.unwrap_or(match yaml {
            TransferBackend::Default => TransportChoice::Auto,
            TransferBackend::Ucx => TransportChoice::Ucx,
            TransferBackend::Tcp => TransportChoice::Tcp,
        });
        if transport == TransportChoice::Mem {
            return alone("--transport", "auto, ucx or tcp");
        }
        let choices = (DiscoveryChoice::Etcd, RequestPlaneChoice::Nats, transport);
        self.resolve_choices(choices, world)
    }

    /// For a process with all roles in it: memory, unless it is to be reached by others as well.
    pub fn resolve_for_one_process(self, world: &World) -> Result<ClusterConfig> {
        let discovery = self.discovery_backend.unwrap_or(DiscoveryChoice::Mem);
        let (usual_requests, usual_transport) = match discovery {
            DiscoveryChoice::Mem => (RequestPlaneChoice::Mem, TransportChoice::Mem),
            DiscoveryChoice::Etcd => (RequestPlaneChoice::Nats, TransportChoice::Auto),
        };
        let requests = self.request_plane.unwrap_or(usual_requests);
        let transport = self.transport.unwrap_or(usual_transport);
        let is_half = requests == RequestPlaneChoice::Mem || transport == TransportChoice::Mem;
        if discovery == DiscoveryChoice::Etcd && is_half {
            return Err(Error::invalid(
                "--discovery-backend etcd shows this process to others, who could not reach its \
                 memory; expected --request-plane nats, and --transport auto, ucx or tcp",
            ));
        }
        self.resolve_choices((discovery, requests, transport), world)
    }

    fn resolve_choices(
        self,
        (discovery, requests, transport): (DiscoveryChoice, RequestPlaneChoice, TransportChoice),
        world: &World,
    ) -> Result<ClusterConfig> {
        let etcd = match discovery {
            DiscoveryChoice::Etcd => Some(self.etcd.resolve(world.etcd_endpoints.clone())?),
            DiscoveryChoice::Mem => None,
        };
        let nats = match requests {
            RequestPlaneChoice::Nats => Some(self.nats.resolve(world.nats_url.clone())?),
            RequestPlaneChoice::Mem => None,
        };
        let key_file = self.cluster_key_file.as_deref();
        let cluster_key = key_file.map(|file| Hidden::read("--cluster-key-file", file));
        Ok(ClusterConfig {
            etcd,
            nats,
            transport,
            transport_host: self.transport_host.map(host).transpose()?,
            cluster_key: cluster_key.transpose()?,
            namespace: self.namespace,
            start_deadline: Duration::from_secs(self.start_timeout_s.max(1)),
        })
    }
}

/// A host alone: an IP address, or a name without a port.
fn host(given: String) -> Result<String> {
    let is_ip = given.parse::<std::net::IpAddr>().is_ok();
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
    if !is_ip && (given.is_empty() || !given.chars().all(is_name)) {
        return Err(Error::invalid(format!(
            "--transport-host: {given:?} is not accepted; expected an IP address or a host name, \
             without a port"
        )));
    }
    Ok(given)
}

/// URLs separated by commas, each with one of `schemes`; one without any gets `usual`.
pub(crate) fn servers(
    flag: &str,
    given: &str,
    usual: &str,
    schemes: &[&str],
) -> Result<Vec<String>> {
    let urls = given.split(',').map(str::trim).filter(|url| !url.is_empty());
    let urls: Vec<String> = urls
        .map(|url| match url.contains("://") {
            true => url.trim_end_matches('/').to_owned(),
            false => format!("{usual}://{url}"),
        })
        .collect();
    let is_known = |url: &String| {
        url.split_once("://")
            .is_some_and(|(scheme, rest)| schemes.contains(&scheme) && !rest.is_empty())
    };
    if urls.is_empty() || !urls.iter().all(is_known) {
        // The value is not shown: it may hold a password.
        return Err(Error::invalid(format!(
            "{flag}: expected URLs that begin with {}://, separated by commas",
            schemes.join(":// or ")
        )));
    }
    Ok(urls)
}
