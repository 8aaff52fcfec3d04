//! `triptych serve`: a frontend and its workers in one process, over planes in memory.
//!
//! The way of a request is the one of separate processes: the same spine, stages, leases, handles
//! and messages; only the planes know that nothing leaves the process.

use crate::model::LoadedModel;
use crate::observe::observe;
use crate::workers;
use config::ServeConfig;
use frontend::Shutdown;
use planes::Planes;
use router::{Backend, Router, RouterConfig};
use std::net::SocketAddr;
use std::sync::Arc;
use telemetry::{Health, Telemetry};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use types::{Error, ErrorKind, Result};
use worker::Worker;

/// A process that serves.
pub struct Served {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its workers, one for each role.
    pub workers: Vec<Worker>,
    /// The system below the API.
    pub backend: Arc<dyn Backend>,
    /// Its metrics.
    pub telemetry: Arc<Telemetry>,
    tasks: Vec<JoinHandle<std::io::Result<()>>>,
}

/// Loads the model, starts the workers and listens. Errors say what to change.
///
/// `shutdown` ends it: no more connections, running requests up to the drain deadline.
pub async fn serve(config: ServeConfig, shutdown: Shutdown) -> Result<Served> {
    let listener = listen(config.frontend.address).await?;
    let address = listener.local_addr().map_err(|error| cannot("listen", &error))?;
    let (worker_config, engine) = (config.worker.clone(), config.engine.clone());
    let load = tokio::task::spawn_blocking(move || LoadedModel::load(&worker_config, &engine));
    let model = load.await.map_err(|_| Error::internal("loading the model broke off"))??;
    let planes = planes_mem::planes();
    let telemetry = Arc::new(Telemetry::new());
    let mut workers = Vec::new();
    for &role in &config.roles {
        let worker = workers::start(&planes, &model, &config.worker, role).await?;
        observe(&telemetry, role, config.worker.engine.max_batch_size, worker.view());
        workers.push(worker);
    }
    let backend = start_router(&planes, &config).await?;
    let mut served = Served { address, workers, backend, telemetry, tasks: Vec::new() };
    served.listen_for_system(&config, &shutdown).await?;
    served.answer(listener, config, shutdown);
    Ok(served)
}

impl Served {
    /// Waits until shutdown is complete.
    pub async fn ended(self) -> Result<()> {
        for task in self.tasks {
            let broke_off = |_| Error::internal("serving broke off");
            task.await.map_err(broke_off)?.map_err(|error| cannot("serve", &error))?;
        }
        // Only now, so that the last requests still find their workers.
        drop(self.workers);
        Ok(())
    }

    fn answer(&mut self, listener: TcpListener, config: ServeConfig, shutdown: Shutdown) {
        let (backend, telemetry) = (Arc::clone(&self.backend), Arc::clone(&self.telemetry));
        let serving = frontend::serve(listener, backend, config.frontend, telemetry, shutdown);
        self.tasks.push(tokio::spawn(serving));
    }

    async fn listen_for_system(&mut self, config: &ServeConfig, shutdown: &Shutdown) -> Result<()> {
        let Some(address) = config.system_address else { return Ok(()) };
        let listener = listen(address).await?;
        let backend = Arc::clone(&self.backend);
        let missing = move || backend.models().into_iter().filter_map(|model| model.missing);
        let health = move || Health { missing: missing().collect() };
        let router = telemetry::system::router(Arc::clone(&self.telemetry), health);
        let serving = telemetry::system::serve(listener, router, shutdown.clone().begun());
        self.tasks.push(tokio::spawn(serving));
        Ok(())
    }
}

async fn start_router(planes: &Planes, config: &ServeConfig) -> Result<Arc<dyn Backend>> {
    let idle_stream_deadline = config.frontend.idle_stream_deadline;
    let router_config = RouterConfig { idle_stream_deadline, ..RouterConfig::default() };
    Ok(Arc::new(Router::start(planes.clone(), router_config).await?))
}

async fn listen(address: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|error| cannot(&format!("listen on {address}"), &error))
}

fn cannot(what: &str, error: &std::io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, format!("cannot {what}: {error}"))
}
