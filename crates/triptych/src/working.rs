//! A worker as a process of its own: it loads its model, joins the cluster, works until it is
//! asked to stop or its engine breaks down, and leaves without breaking off what it has begun.

use crate::connect::connect;
use crate::model::{Crew, LoadedModel};
use crate::process::unless_stopped;
use crate::system::System;
use crate::workers;
use config::{Role, WorkerProcessConfig, WorkerProcessFlags, World};
use frontend::Shutdown;
use planes::Planes;
use types::{Error, Result};
use worker::Worker;

/// Resolves `flags` for a worker in `role` and works until `shutdown`.
///
/// Errors: what keeps it from working, or has ended its work, in words for whoever started it.
pub async fn work(flags: WorkerProcessFlags, role: Role, shutdown: Shutdown) -> Result<()> {
    let config = flags.resolve(role, &World::of_process())?;
    let system = System::start(&config.process).await?;
    let Some((planes, mut worker)) = unless_stopped(&shutdown, join(&config, &system)).await?
    else {
        return Ok(());
    };
    let ended = tokio::select! {
        () = shutdown.begun() => {
            system.stopping();
            Ok(())
        }
        // Until its end the process says itself why it is not healthy.
        broken = workers::breakdown(vec![worker.view()]) => Err(broken),
    };
    workers::leave(&planes, &mut worker, config.process.drain_deadline).await;
    ended
}

async fn join(config: &WorkerProcessConfig, system: &System) -> Result<(Planes, Worker)> {
    let (role, transport) = (config.place.role, config.cluster.transport);
    let planes = connect(&config.cluster, role.name(), system, None).await?;
    system.starting("loading the model");
    let crew = Crew { roles: vec![role], transport };
    let model = LoadedModel::load_beside(&config.worker, &config.engine, crew).await?;
    let (place, telemetry) = (&config.place, &system.telemetry);
    let share = model.shares().into_iter().next();
    let share = share.ok_or_else(|| Error::internal("a model was loaded for nobody"))?;
    let worker = workers::start(&planes, share, &config.worker, place, telemetry).await?;
    model.keep_gemm_choices();
    workers::announce(&config.worker, role, &worker);
    system.ready(worker.view());
    Ok((planes, worker))
}
