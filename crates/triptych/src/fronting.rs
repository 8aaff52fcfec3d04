//! A frontend: a router over the planes, and HTTP in front of it.

use crate::system::{System, listen, local_address};
use config::{FrontendConfig, RouterMode};
use frontend::{Door, Shutdown};
use planes::Planes;
use router::{Backend, Router, RouterConfig};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::task::JoinHandle;
use types::{Error, ErrorKind, Result};

/// The port of a frontend, taken before anything else is begun.
pub struct Listening {
    door: Door,
    /// Where it listens.
    pub address: SocketAddr,
}

/// A frontend that answers.
pub struct Fronting {
    /// Where it listens.
    pub address: SocketAddr,
    /// What clients' addresses begin with.
    pub url: String,
    /// The system below the API.
    pub backend: Arc<dyn Backend>,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Listening {
    /// Takes the port. Errors: somebody has it, or its certificate cannot be used.
    pub async fn start(config: &FrontendConfig) -> Result<Self> {
        let listener = listen(config.address, "--http-port").await?;
        let address = local_address(&listener)?;
        Ok(Self { address, door: Door::new(listener, config.access.tls.as_ref())? })
    }

    /// Begins to answer, for the workers that `planes` show; `shutdown` lets it finish.
    pub async fn front(
        self,
        planes: Planes,
        config: FrontendConfig,
        system: &System,
        shutdown: &Shutdown,
    ) -> Result<Fronting> {
        let backend: Arc<dyn Backend> =
            Arc::new(Router::start(planes, router_config(&config)).await?);
        system.fronting(&backend);
        let telemetry = Arc::clone(&system.telemetry);
        let above = Arc::clone(&backend);
        let url = format!("{}://{}", self.door.scheme(), self.address);
        let serving = frontend::serve(self.door, above, config, telemetry, shutdown.clone());
        Ok(Fronting { address: self.address, url, backend, serving: tokio::spawn(serving) })
    }
}

impl Fronting {
    /// Waits until it has answered all it had begun when the shutdown did.
    pub async fn ended(self) -> Result<()> {
        let broke_off = |_| Error::internal("serving broke off");
        let cannot = |error| {
            Error::new(ErrorKind::Unavailable, format!("cannot serve HTTP any longer: {error}"))
        };
        self.serving.await.map_err(broke_off)?.map_err(cannot)
    }
}

fn router_config(config: &FrontendConfig) -> RouterConfig {
    let idle_stream_deadline = config.idle_stream_deadline;
    match config.router_mode {
        RouterMode::LeastLoaded => RouterConfig { idle_stream_deadline, ..RouterConfig::default() },
    }
}
