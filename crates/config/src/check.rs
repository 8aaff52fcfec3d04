//! `triptych check`: the flags of any process, of which that one's own count.

use crate::mock::EngineKind;
use crate::separate::{
    FrontendProcessConfig, FrontendProcessFlags, ModeFlags, PlaceFlags, WorkerProcessConfig,
    WorkerProcessFlags,
};
use crate::serve::{Role, ServeConfig, ServeFlags};
use crate::world::World;
use crate::{ClusterConfig, ProcessConfig, WorkerConfig};
use clap::ValueEnum;
use types::Result;

/// What users write after `triptych check`.
#[derive(Debug, Clone, clap::Args)]
#[command(mut_arg("model_path", |arg| arg.required(false)))]
pub struct CheckFlags {
    /// Which process is to be started with these flags.
    #[arg(
        long = "for",
        env = "TRIPTYCH_FOR",
        value_enum,
        default_value_t = ProcessKind::Serve,
        help_heading = "Check"
    )]
    pub process_kind: ProcessKind,
    /// The flags of most of them.
    #[command(flatten)]
    pub serve: ServeFlags,
    /// The role of a `worker`.
    #[command(flatten)]
    pub mode: ModeFlags,
    /// The place of a worker.
    #[command(flatten)]
    pub place: PlaceFlags,
}

/// The processes there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProcessKind {
    /// `triptych serve`.
    Serve,
    /// `frontend`.
    Frontend,
    /// `worker`.
    Worker,
    /// `encode-worker`.
    EncodeWorker,
    /// `prefill-worker`.
    PrefillWorker,
    /// `decode-worker`.
    DecodeWorker,
}

/// A process as it would be started.
#[derive(Debug, Clone, PartialEq)]
pub enum CheckConfig {
    /// `triptych serve`.
    Serve(Box<ServeConfig>),
    /// A frontend.
    Frontend(Box<FrontendProcessConfig>),
    /// A worker of any role.
    Worker(Box<WorkerProcessConfig>),
}

impl CheckFlags {
    /// Reads the files that the flags name and checks every value, as that process would.
    pub fn resolve(self, world: &World) -> Result<CheckConfig> {
        let role = match self.process_kind {
            ProcessKind::Serve => {
                return Ok(CheckConfig::Serve(Box::new(self.serve.resolve(world)?)));
            }
            ProcessKind::Frontend => {
                let ServeFlags { frontend, cluster, process, .. } = self.serve;
                let flags = FrontendProcessFlags { frontend, cluster, process };
                return Ok(CheckConfig::Frontend(Box::new(flags.resolve(world)?)));
            }
            ProcessKind::Worker => self.mode.disaggregation_mode.role(),
            ProcessKind::EncodeWorker => Role::Encode,
            ProcessKind::PrefillWorker => Role::Prefill,
            ProcessKind::DecodeWorker => Role::Decode,
        };
        let ServeFlags { worker, engine, cluster, process, .. } = self.serve;
        let flags = WorkerProcessFlags { worker, engine, place: self.place, cluster, process };
        Ok(CheckConfig::Worker(Box::new(flags.resolve(role, world)?)))
    }
}

impl CheckConfig {
    /// Its ties to other processes.
    pub fn cluster(&self) -> &ClusterConfig {
        match self {
            Self::Serve(config) => &config.cluster,
            Self::Frontend(config) => &config.cluster,
            Self::Worker(config) => &config.cluster,
        }
    }

    /// The process.
    pub fn process(&self) -> &ProcessConfig {
        match self {
            Self::Serve(config) => &config.process,
            Self::Frontend(config) => &config.process,
            Self::Worker(config) => &config.process,
        }
    }

    /// What its workers compute, on what, and a role for each.
    pub fn workers(&self) -> Option<(&WorkerConfig, &EngineKind, Vec<Role>)> {
        match self {
            Self::Serve(config) => Some((&config.worker, &config.engine, config.roles.clone())),
            Self::Frontend(_) => None,
            Self::Worker(config) => Some((&config.worker, &config.engine, vec![config.place.role])),
        }
    }
}
