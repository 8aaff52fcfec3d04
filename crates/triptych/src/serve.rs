//! `triptych serve`: a frontend and its workers in one process, over planes in memory unless others
//! shall reach it as well.
//!
//! The way of a request is the one of separate processes: the same spine, stages, leases, handles
//! and messages; only the planes know that nothing leaves the process.

use crate::connect::connect;
use crate::fronting::{Fronting, Listening};
use crate::gpu_moves;
use crate::model::{Crew, LoadedModel};
use crate::system::System;
use crate::workers;
use config::{Place, ServeConfig};
use frontend::{Shutdown, ShutdownTrigger};
use planes::Planes;
use router::Backend;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use telemetry::Telemetry;
use tokio::task::JoinHandle;
use types::{Error, Result};
use worker::Worker;

/// A process that serves.
pub struct Served {
    /// Where it listens.
    pub address: SocketAddr,
    /// What clients' addresses begin with.
    pub url: String,
    /// Its workers, one for each role.
    pub workers: Vec<Worker>,
    /// The system below the API.
    pub backend: Arc<dyn Backend>,
    /// Its metrics.
    pub telemetry: Arc<Telemetry>,
    system: System,
    fronting: Fronting,
    ending: JoinHandle<Result<()>>,
    planes: Planes,
    drain_deadline: Duration,
}

/// Loads the model, starts the workers and listens. Errors say what to change.
///
/// `shutdown` ends it: no more connections, running requests up to the drain deadline. So does an
/// engine that breaks down.
pub async fn serve(config: ServeConfig, shutdown: Shutdown) -> Result<Served> {
    let listening = Listening::start(&config.frontend).await?;
    let system = System::start(&config.process).await?;
    system.starting("loading the model");
    let roles = &config.roles;
    let crew = Crew { roles: roles.clone(), transport: config.cluster.transport };
    let model = LoadedModel::load_beside(&config.worker, &config.engine, crew).await?;
    let by_gpu = gpu_moves::copier(model.device())?;
    let planes = connect(&config.cluster, "triptych serve", &system, by_gpu).await?;
    let mut workers = Vec::new();
    for (share, &role) in model.shares().into_iter().zip(roles) {
        let place = Place::usual(role, &config.cluster.namespace);
        let telemetry = &system.telemetry;
        workers.push(workers::start(&planes, share, &config.worker, &place, telemetry).await?);
    }
    model.keep_gemm_choices();
    let drain_deadline = config.process.drain_deadline;
    let (trigger, end) = Shutdown::new();
    let fronting = listening.front(planes.clone(), config.frontend, &system, &end).await?;
    let broken = workers::breakdown(workers.iter().map(Worker::view).collect());
    let ending = tokio::spawn(begin_end((trigger, shutdown), broken));
    Ok(Served {
        address: fronting.address,
        url: fronting.url.clone(),
        workers,
        backend: Arc::clone(&fronting.backend),
        telemetry: Arc::clone(&system.telemetry),
        system,
        fronting,
        ending,
        planes,
        drain_deadline,
    })
}

/// Has the process end when it shall, or must; errors say why it must.
async fn begin_end(
    (trigger, shutdown): (ShutdownTrigger, Shutdown),
    broken: impl Future<Output = Error>,
) -> Result<()> {
    let ending = tokio::select! {
        () = shutdown.begun() => Ok(()),
        broken = broken => Err(broken),
    };
    trigger.begin();
    ending
}

impl Served {
    /// Waits until shutdown is complete. Errors: why it began, unless somebody wanted it.
    pub async fn ended(self) -> Result<()> {
        self.fronting.ended().await?;
        self.system.stopping();
        // Only now, so that the last requests still find their workers; whoever else calls them
        // may finish as well.
        for mut worker in self.workers {
            workers::leave(&self.planes, &mut worker, self.drain_deadline).await;
        }
        self.ending.await.map_err(|_| Error::internal("serving broke off"))?
    }
}
