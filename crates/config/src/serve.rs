//! Everything in one process: `triptych serve` is a frontend and workers, over planes in memory
//! unless told otherwise.

use crate::cluster::{ClusterConfig, ClusterFlags};
use crate::frontend::{FrontendConfig, FrontendFlags};
use crate::mock::{EngineKind, EngineKindFlags};
use crate::process::{ProcessConfig, ProcessFlags};
use crate::worker::{WorkerConfig, WorkerFlags};
use crate::world::World;
use clap::ValueEnum;
use types::{Error, Result};

/// Most workers of one process.
const ROLES_MAX: usize = 16;

/// What users write after `triptych serve`.
#[derive(Debug, Clone, clap::Args)]
pub struct ServeFlags {
    /// What to serve, and on what.
    #[command(flatten)]
    pub worker: WorkerFlags,
    /// What computes the tokens.
    #[command(flatten)]
    pub engine: EngineKindFlags,
    /// The HTTP side.
    #[command(flatten)]
    pub frontend: FrontendFlags,
    /// `agg` for one worker of all stages, or a list such as `e,p,d` (encode, prefill, decode).
    #[arg(
        long,
        env = "TRIPTYCH_ROLES",
        value_name = "ROLES",
        value_delimiter = ',',
        default_value = "agg",
        help_heading = "Process"
    )]
    pub roles: Vec<Role>,
    /// The process.
    #[command(flatten)]
    pub process: ProcessFlags,
    /// Its ties to other processes.
    #[command(flatten)]
    pub cluster: ClusterFlags,
}

/// What `triptych serve` runs, resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct ServeConfig {
    /// The HTTP side.
    pub frontend: FrontendConfig,
    /// What every worker is told.
    pub worker: WorkerConfig,
    /// A worker for each.
    pub roles: Vec<Role>,
    /// What computes the tokens.
    pub engine: EngineKind,
    /// Its ties to other processes.
    pub cluster: ClusterConfig,
    /// The process.
    pub process: ProcessConfig,
}

/// What one worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// All three stages.
    #[value(name = "agg")]
    Aggregated,
    /// Tower and projector.
    #[value(name = "e", alias = "encode")]
    Encode,
    /// Prompts and first tokens; it encodes itself where no encode worker is.
    #[value(name = "p", alias = "prefill")]
    Prefill,
    /// All further tokens.
    #[value(name = "d", alias = "decode")]
    Decode,
}

impl Role {
    /// Its name in logs, metrics and `--disaggregation-mode`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Aggregated => "agg",
            Self::Encode => "encode",
            Self::Prefill => "prefill",
            Self::Decode => "decode",
        }
    }
}

impl ServeFlags {
    /// Reads the files that the flags name and checks every value.
    pub fn resolve(self, world: &World) -> Result<ServeConfig> {
        let process = self.process.resolve(Some(self.frontend.http_host))?;
        Ok(ServeConfig {
            frontend: self.frontend.resolve(&process)?,
            worker: self.worker.resolve(&process, world)?,
            roles: check_roles(self.roles)?,
            engine: self.engine.resolve(),
            cluster: self.cluster.resolve_for_one_process(world)?,
            process,
        })
    }
}

/// A request needs every stage: an aggregated worker, or both a prefill and a decode worker.
fn check_roles(roles: Vec<Role>) -> Result<Vec<Role>> {
    let has = |role| roles.contains(&role);
    let complete = has(Role::Aggregated) || (has(Role::Prefill) && has(Role::Decode));
    if !complete {
        return Err(Error::invalid(
            "--roles: no request could be answered; expected `agg`, or a list with `p` and `d`",
        ));
    }
    if roles.len() > ROLES_MAX {
        return Err(Error::invalid(format!("--roles: expected at most {ROLES_MAX} workers")));
    }
    Ok(roles)
}
