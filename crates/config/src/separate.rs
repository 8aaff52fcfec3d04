//! A process with one role: a frontend, or a worker in one place of the cluster.

use crate::cluster::{ClusterConfig, ClusterFlags};
use crate::endpoint::Endpoint;
use crate::engine_args::TransferBackend;
use crate::frontend::{FrontendConfig, FrontendFlags};
use crate::mock::{EngineKind, EngineKindFlags};
use crate::process::{ProcessConfig, ProcessFlags};
use crate::serve::Role;
use crate::worker::{WorkerConfig, WorkerFlags};
use crate::world::World;
use clap::ValueEnum;
use types::{Error, Result};

/// What users write after `frontend`.
#[derive(Debug, Clone, clap::Args)]
pub struct FrontendProcessFlags {
    /// The HTTP side.
    #[command(flatten)]
    pub frontend: FrontendFlags,
    /// Its ties to the workers.
    #[command(flatten)]
    pub cluster: ClusterFlags,
    /// The process.
    #[command(flatten)]
    pub process: ProcessFlags,
}

/// What a frontend process is told, resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct FrontendProcessConfig {
    /// The HTTP side.
    pub frontend: FrontendConfig,
    /// Its ties to the workers.
    pub cluster: ClusterConfig,
    /// The process.
    pub process: ProcessConfig,
}

/// What users write after a worker's name.
#[derive(Debug, Clone, clap::Args)]
pub struct WorkerProcessFlags {
    /// What to compute, and on what.
    #[command(flatten)]
    pub worker: WorkerFlags,
    /// What computes the tokens.
    #[command(flatten)]
    pub engine: EngineKindFlags,
    /// Where it stands in the cluster.
    #[command(flatten)]
    pub place: PlaceFlags,
    /// Its ties to the others.
    #[command(flatten)]
    pub cluster: ClusterFlags,
    /// The process.
    #[command(flatten)]
    pub process: ProcessFlags,
}

/// What a worker process is told, resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerProcessConfig {
    /// What to compute, and on what.
    pub worker: WorkerConfig,
    /// What computes the tokens.
    pub engine: EngineKind,
    /// Where it stands in the cluster.
    pub place: Place,
    /// Its ties to the others.
    pub cluster: ClusterConfig,
    /// The process.
    pub process: ProcessConfig,
}

/// What users write about a worker's place among others.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Cluster")]
pub struct PlaceFlags {
    /// The name under which this worker is found, `dyn://<namespace>.<component>.<endpoint>`
    /// [default: `.backend.generate` of the namespace, `.prefill.generate` or `.encode.generate`].
    #[arg(long, env = "TRIPTYCH_ENDPOINT", value_name = "dyn://…")]
    pub endpoint: Option<Endpoint>,
    /// The encode workers of a prefill worker, which then has no tower itself: without one of them
    /// requests with media fail with 503 [default: any encode worker, else its own tower].
    #[arg(long, env = "TRIPTYCH_ENCODE_ENDPOINT", value_name = "dyn://…")]
    pub encode_endpoint: Option<Endpoint>,
}

/// A worker's place among others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// What it does.
    pub role: Role,
    /// The name under which it is found.
    pub endpoint: Endpoint,
    /// Who encodes for it, where it must not do that itself.
    pub encode_endpoint: Option<Endpoint>,
}

/// What `worker` alone is told: its role, which the names of the others say.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Cluster")]
pub struct ModeFlags {
    /// Which stages of a request this worker runs.
    #[arg(long, env = "TRIPTYCH_DISAGGREGATION_MODE", value_enum, default_value_t = Mode::Agg)]
    pub disaggregation_mode: Mode,
}

/// What `--disaggregation-mode` accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// All stages.
    #[value(alias = "prefill_and_decode")]
    Agg,
    /// Prompts and first tokens.
    Prefill,
    /// All further tokens.
    Decode,
    /// Tower and projector.
    Encode,
}

impl Mode {
    /// The role it stands for.
    pub fn role(self) -> Role {
        match self {
            Self::Agg => Role::Aggregated,
            Self::Prefill => Role::Prefill,
            Self::Decode => Role::Decode,
            Self::Encode => Role::Encode,
        }
    }
}

impl FrontendProcessFlags {
    /// Reads the files that the flags name and checks every value.
    pub fn resolve(self, world: &World) -> Result<FrontendProcessConfig> {
        let process = self.process.resolve(Some(self.frontend.http_host))?;
        Ok(FrontendProcessConfig {
            frontend: self.frontend.resolve(&process)?,
            cluster: self.cluster.resolve(TransferBackend::Default, world)?,
            process,
        })
    }
}

impl WorkerProcessFlags {
    /// Reads the files that the flags name and checks every value, for a worker in `role`.
    pub fn resolve(self, role: Role, world: &World) -> Result<WorkerProcessConfig> {
        let process = self.process.resolve(None)?;
        let worker = self.worker.resolve(&process, world)?;
        let cluster = self.cluster.resolve(worker.engine.transfer_backend, world)?;
        Ok(WorkerProcessConfig {
            place: self.place.resolve(role, &cluster.namespace)?,
            engine: self.engine.resolve(),
            worker,
            cluster,
            process,
        })
    }
}

impl Place {
    /// Where a worker in `role` stands unless it is told otherwise.
    pub fn usual(role: Role, namespace: &str) -> Self {
        Self { role, endpoint: Endpoint::usual(namespace, role), encode_endpoint: None }
    }
}

impl PlaceFlags {
    fn resolve(self, role: Role, namespace: &str) -> Result<Place> {
        if self.encode_endpoint.is_some() && role != Role::Prefill {
            return Err(Error::invalid(
                "--encode-endpoint: only a prefill worker asks encode workers; expected it with \
                 `prefill-worker` or `--disaggregation-mode prefill`",
            ));
        }
        let usual = Place::usual(role, namespace);
        let endpoint = self.endpoint.unwrap_or(usual.endpoint);
        for (flag, given) in
            [("--endpoint", Some(&endpoint)), ("--encode-endpoint", self.encode_endpoint.as_ref())]
        {
            if given.is_some_and(|given| given.namespace != namespace) {
                return Err(Error::invalid(format!(
                    "{flag}: a worker finds others in its own namespace only; expected \
                     dyn://{namespace}.…, or another --namespace"
                )));
            }
        }
        Ok(Place { role, endpoint, encode_endpoint: self.encode_endpoint })
    }
}
