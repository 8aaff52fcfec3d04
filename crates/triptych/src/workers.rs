//! One worker for each role: an engine of its own, over the same weights; what it says when it has
//! begun, and how it ends.

use crate::model::ModelShare;
use crate::observe::observe;
use crate::sizes::engine_config;
use config::worker::{Modality, WorkerConfig};
use config::{Endpoint, MediaConfig, Place, Role};
use engine::EngineConfig;
use fetch::{Deadlines, Network};
use futures::StreamExt;
use futures::stream::BoxStream;
use planes::{Address, MembershipEvent, Planes};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use telemetry::{Telemetry, WorkerRecorder};
use tokio::time::{sleep, timeout};
use types::media::MediaKind;
use types::stage::{Stage, Stages};
use types::{Error, ErrorKind, Result};
use worker::{MediaPolicy, Worker, WorkerParts, WorkerView};

/// Blocks of an engine that never holds KV.
const N_BLOCKS_WITHOUT_KV: usize = 1;

/// Media that workers read; of films and sounds none, whatever a model could do with them.
const KINDS_READ: [MediaKind; 1] = [MediaKind::Image];

/// How long a worker that leaves waits until nobody sees it any more.
const WITHDRAW_TIME: Duration = Duration::from_secs(1);

/// Time between two looks at whether an engine has broken down.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// Starts a worker in its place, and shows it in the metrics from now on.
///
/// Errors: impossible sizes, no memory, or a plane refused.
pub(crate) async fn start(
    planes: &Planes,
    share: ModelShare<'_>,
    config: &WorkerConfig,
    place: &Place,
    telemetry: &Telemetry,
) -> Result<Worker> {
    let metrics = telemetry.workers.of_role(place.role.name());
    let parts = parts(planes, share, config, place, metrics.recorder())?;
    let worker = Worker::start(parts).await?;
    observe(telemetry, metrics, config.engine.max_batch_size, worker.view());
    Ok(worker)
}

fn parts(
    planes: &Planes,
    share: ModelShare<'_>,
    config: &WorkerConfig,
    place: &Place,
    recorder: WorkerRecorder,
) -> Result<WorkerParts> {
    let ModelShare { description, backend, tower, kv } = share;
    let sizes = engine_config(config, &description.spec, kv)?;
    let sizes = sizes_of_role(EngineConfig { tower, ..sizes }, place.role);
    let mut card = description.card.clone();
    card.max_seq_len = sizes.scheduler.max_seq_len as u32;
    let placeholders = match config.modality {
        Modality::Text => Vec::new(),
        Modality::Multimodal => description.spec.placeholders.clone(),
    };
    // Workers that read other media have other cards, and are never mixed for a request.
    let has_place = |kind: &MediaKind| placeholders.iter().any(|found| found.kind == *kind);
    card.media = KINDS_READ.into_iter().filter(has_place).collect();
    let engine = engine::start(backend, sizes)?;
    engine.warm_up()?;
    Ok(WorkerParts {
        planes: planes.clone(),
        engine,
        processor: Arc::clone(&description.processor),
        placeholders,
        card,
        model: config.served_model_name.clone(),
        stages: stages(place),
        endpoint: place.endpoint.address_prefix(),
        encode_endpoint: place.encode_endpoint.as_ref().map(Endpoint::address_prefix),
        media: media_policy(config),
        kv_transfer_deadline: config.kv_transfer_timeout,
        recorder,
    })
}

/// Says in the log what has begun.
pub(crate) fn announce(config: &WorkerConfig, role: Role, worker: &Worker) {
    let view = worker.view();
    let n_blocks = view.engine().stats().scheduler.blocks.total();
    tracing::info!(
        "{} worker of {} is ready at {}, serves its memory at [{}], and has {n_blocks} KV blocks \
         of {} tokens",
        role.name(),
        config.served_model_name,
        view.address().0,
        view.transports().join(", "),
        config.engine.kv_cache.tokens_per_block,
    );
}

/// Waits until the engine of one of these workers has broken down; gives the error with which the
/// process ends.
pub(crate) async fn breakdown(workers: Vec<WorkerView>) -> Error {
    loop {
        if let Some(why) = workers.iter().find_map(|worker| worker.engine().breakdown()) {
            let message = format!("the engine has broken down: {why}");
            return Error::new(ErrorKind::Unavailable, message);
        }
        sleep(LOOK_PAUSE).await;
    }
}

/// Has a worker leave the cluster and finish what it has begun, up to the deadline.
pub(crate) async fn leave(planes: &Planes, worker: &mut Worker, deadline: Duration) {
    let give_up = Instant::now() + deadline;
    let gone = until_gone(planes.discovery.watch(), worker.view().address().clone());
    worker.withdraw();
    // What others send in the last moment in which they see it is answered as well. Out of reach,
    // its entry ends by itself; nobody here needs to wait longer for that.
    let _ = timeout(WITHDRAW_TIME.min(deadline), gone).await;
    if !worker.calls_ended(give_up.saturating_duration_since(Instant::now())).await {
        let n_calls = worker.view().n_calls();
        tracing::warn!("{n_calls} calls are broken off, because --drain-timeout-s is over");
    }
}

/// Waits until nobody sees the instance at `address` any more.
async fn until_gone(mut events: BoxStream<'static, MembershipEvent>, address: Address) {
    let mut id = None;
    while let Some(event) = events.next().await {
        match event {
            MembershipEvent::Snapshot(there) => {
                let found = there.into_iter().find(|instance| instance.address == address);
                let Some(instance) = found else { return };
                id = Some(instance.id);
            }
            MembershipEvent::Left(left) if id == Some(left) => return,
            MembershipEvent::Left(_) | MembershipEvent::Joined(_) => {}
            MembershipEvent::SourceLost => {}
        }
    }
}

/// A prefill worker has the tower as well, for when no encoder is there; told who encodes for it,
/// it has none.
fn stages(place: &Place) -> Stages {
    match place.role {
        Role::Aggregated => Stages::ALL,
        Role::Encode => Stages::of(&[Stage::Encode]),
        Role::Prefill if place.encode_endpoint.is_some() => Stages::of(&[Stage::Prefill]),
        Role::Prefill => Stages::of(&[Stage::Encode, Stage::Prefill]),
        Role::Decode => Stages::of(&[Stage::Decode]),
    }
}

/// An engine that never holds KV has no pool of it, and one that never decodes records no steps.
pub(crate) fn sizes_of_role(mut sizes: EngineConfig, role: Role) -> EngineConfig {
    match role {
        Role::Encode => {
            sizes.scheduler.n_blocks = N_BLOCKS_WITHOUT_KV;
            sizes.graph_batch_sizes.clear();
        }
        Role::Prefill => sizes.graph_batch_sizes.clear(),
        Role::Aggregated | Role::Decode => {}
    }
    sizes
}

fn fetch_policy(config: &MediaConfig, n_bytes_max: usize) -> fetch::Policy {
    let network = |&(address, n_bits): &(IpAddr, u32)| Network::new(address, n_bits);
    fetch::Policy {
        domains: config.domains.clone(),
        networks: config.networks.iter().filter_map(network).collect(),
        n_bytes_max,
        deadlines: Deadlines {
            connect: config.connect_deadline,
            read: config.read_deadline,
            total: config.fetch_deadline,
        },
    }
}

fn media_policy(config: &WorkerConfig) -> MediaPolicy {
    let n_cores = std::thread::available_parallelism().map_or(1, usize::from);
    let max_bytes = usize::try_from(config.media_file_bytes_max).unwrap_or(usize::MAX);
    MediaPolicy {
        allowed_local_path: config.allowed_local_media_path.clone(),
        remote: fetch_policy(&config.media, max_bytes),
        limits: media::Limits { max_bytes, ..media::Limits::default() },
        n_decoders: n_cores,
        n_bytes_held_max: config.media_bytes_held_max,
    }
}
