//! Everything in one process: `triptych serve` is a frontend and workers over planes in memory.

use crate::frontend::{FrontendConfig, FrontendFlags};
use crate::mock::{MockConfig, MockFlags};
use crate::worker::{WorkerConfig, WorkerFlags};
use clap::ValueEnum;
use std::net::SocketAddr;
use std::path::PathBuf;
use types::{Error, Result};

/// Most workers of one process.
const ROLES_MAX: usize = 16;

/// What users write after `triptych serve`.
#[derive(Debug, Clone, clap::Args)]
pub struct ServeFlags {
    /// What to serve, and on what.
    #[command(flatten)]
    pub worker: WorkerFlags,
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
    /// What computes the tokens; `mock` needs no weights.
    #[arg(
        long = "engine",
        env = "TRIPTYCH_ENGINE",
        value_enum,
        default_value_t = EngineChoice::Native,
        help_heading = "Process"
    )]
    pub engine_kind: EngineChoice,
    /// Port of `/health`, `/live` and `/metrics` for the system's side [default: none].
    #[arg(long, env = "TRIPTYCH_SYSTEM_PORT", value_name = "PORT", help_heading = "Process")]
    pub system_port: Option<u16>,
    /// Where instances register; one process keeps that in memory.
    #[arg(
        long,
        env = "TRIPTYCH_DISCOVERY_BACKEND",
        value_enum,
        default_value_t = Plane::Mem,
        help_heading = "Process"
    )]
    pub discovery_backend: Plane,
    /// What carries requests between roles; one process keeps that in memory.
    #[arg(
        long,
        env = "TRIPTYCH_REQUEST_PLANE",
        value_enum,
        default_value_t = Plane::Mem,
        help_heading = "Process"
    )]
    pub request_plane: Plane,
    /// What carries embeddings and KV blocks between roles; one process keeps that in memory.
    #[arg(
        long,
        env = "TRIPTYCH_TRANSPORT",
        value_enum,
        default_value_t = Plane::Mem,
        help_heading = "Process"
    )]
    pub transport: Plane,
    /// The mock engine.
    #[command(flatten)]
    pub mock: MockFlags,
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
    /// Where to serve health and metrics of the system's side.
    pub system_address: Option<SocketAddr>,
}

/// What computes the tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineKind {
    /// The model.
    Native,
    /// Nothing: canned tokens at configured times.
    Mock(MockConfig),
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

/// What `--engine` accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineChoice {
    /// The model.
    Native,
    /// Canned tokens.
    Mock,
}

/// The planes of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Plane {
    /// Memory of this process.
    Mem,
}

/// What resolving needs of the surroundings.
#[derive(Debug, Clone, Default)]
pub struct World {
    /// Where Hugging Face tools keep what they fetched.
    pub hub_cache: Option<PathBuf>,
}

impl World {
    /// The surroundings of this process.
    pub fn of_process() -> Self {
        Self { hub_cache: crate::model_path::hub_cache(|name| std::env::var(name).ok()) }
    }
}

impl ServeFlags {
    /// Reads the files that the flags name and checks every value.
    pub fn resolve(self, world: &World) -> Result<ServeConfig> {
        let frontend = self.frontend.resolve()?;
        let file_bytes_max = frontend.limits.media_file_bytes_max;
        Ok(ServeConfig {
            system_address: self
                .system_port
                .map(|port| SocketAddr::new(frontend.address.ip(), port)),
            worker: self.worker.resolve(file_bytes_max, world.hub_cache.as_deref())?,
            frontend,
            roles: check_roles(self.roles)?,
            engine: match self.engine_kind {
                EngineChoice::Native => EngineKind::Native,
                EngineChoice::Mock => EngineKind::Mock(self.mock.resolve()),
            },
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
