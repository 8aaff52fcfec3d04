//! [`Worker`]: an engine made reachable: served, registered, and withdrawn again when dropped.

use crate::calls::Calls;
use crate::credit::Credits;
use crate::handler::WorkerHandler;
use crate::media_memory::MediaMemory;
use crate::peers::connect_to_all;
use crate::prefill::layout;
use crate::presence::Presence;
use crate::room::Room;
use crate::rows::RowsTable;
use crate::running::RunningCalls;
use crate::waiting::WaitingCalls;
use engine::Engine;
use fetch::Fetcher;
use models::Processor;
use planes::{Address, Instance, LeaseTable, Planes, Reaper, Withdraw, random};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use telemetry::WorkerRecorder;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use types::Result;
use types::card::ModelCard;
use types::content::Digest;
use types::prompt::Placeholder;
use types::stage::{Stage, Stages};

/// Which media a worker reads.
#[derive(Debug, Clone)]
pub struct MediaPolicy {
    /// The folder under which files may be read, symbolic links resolved; `None` allows none.
    pub allowed_local_path: Option<PathBuf>,
    /// Which media are fetched over HTTP(S).
    pub remote: fetch::Policy,
    /// Largest file, and largest picture.
    pub limits: media::Limits,
    /// Pictures decoded at a time.
    pub n_decoders: usize,
    /// Bytes of encoded media held at once; pictures being decoded may take as many again.
    pub n_bytes_held_max: u64,
}

/// What a worker is made of.
pub struct WorkerParts {
    /// The world around it.
    pub planes: Planes,
    /// The engine that does its work.
    pub engine: Engine,
    /// How media become the tower's input.
    pub processor: Arc<dyn Processor>,
    /// The tokens that stand for media.
    pub placeholders: Vec<Placeholder>,
    /// The card of its model.
    pub card: ModelCard,
    /// The name under which the model is served.
    pub model: String,
    /// What it offers.
    pub stages: Stages,
    /// What its address begins with (`dynamo.backend.generate`).
    pub endpoint: String,
    /// The only encoders whose rows it takes, by the beginning of their addresses.
    pub encode_endpoint: Option<String>,
    /// Which media it reads.
    pub media: MediaPolicy,
    /// Longest time that rows or KV blocks take between two roles; what is large gets time for its
    /// size beside it.
    pub kv_transfer_deadline: Duration,
    /// Where it tells what it moves and what is cancelled.
    pub recorder: WorkerRecorder,
}

/// A worker that is there for others until this is dropped.
pub struct Worker {
    // Dropped in this order: first nobody finds it, then nobody reaches it.
    presence: Option<Presence>,
    _answered: Withdraw,
    _lent: Withdraw,
    _reaper: Reaper,
    connecting: JoinHandle<()>,
    shared: Arc<Shared>,
}

/// What every call to this worker uses.
pub(crate) struct Shared {
    pub(crate) planes: Planes,
    pub(crate) engine: Engine,
    pub(crate) processor: Arc<dyn Processor>,
    pub(crate) placeholders: Vec<Placeholder>,
    pub(crate) card: ModelCard,
    pub(crate) card_digest: Digest,
    pub(crate) address: Address,
    pub(crate) transports: Vec<String>,
    pub(crate) leases: Arc<LeaseTable>,
    pub(crate) rows: RowsTable,
    pub(crate) room: Room,
    pub(crate) credits: Credits,
    pub(crate) media_memory: MediaMemory,
    pub(crate) calls: Calls,
    pub(crate) running: RunningCalls,
    /// Those that wait to be told that decode has room.
    pub(crate) waiting: WaitingCalls,
    pub(crate) recorder: WorkerRecorder,
    pub(crate) kv_transfer_deadline: Duration,
    pub(crate) media: MediaPolicy,
    pub(crate) fetcher: Fetcher,
    pub(crate) decoders: Semaphore,
    pub(crate) decoding: MediaMemory,
}

impl Worker {
    /// Serves, lends and registers. Errors: a plane refused.
    pub async fn start(parts: WorkerParts) -> Result<Self> {
        let id = random::instance_id();
        let address = Address(format!("{}.{id}", parts.endpoint));
        let leases = Arc::new(LeaseTable::default());
        let (transports, lent) = parts.planes.transport.serve(Arc::clone(&leases)).await?;
        let reaper = Reaper::start(&leases);
        let card_digest = parts.card.digest();
        let shared = Arc::new(Shared {
            planes: parts.planes.clone(),
            room: Room::new(Arc::clone(parts.engine.embeddings())),
            engine: parts.engine,
            processor: parts.processor,
            placeholders: parts.placeholders,
            card: parts.card,
            card_digest,
            address: address.clone(),
            transports: transports.clone(),
            leases,
            rows: RowsTable::default(),
            credits: Credits::default(),
            media_memory: MediaMemory::new(parts.media.n_bytes_held_max),
            calls: Calls::default(),
            running: RunningCalls::default(),
            waiting: WaitingCalls::default(),
            recorder: parts.recorder,
            kv_transfer_deadline: parts.kv_transfer_deadline,
            fetcher: Fetcher::new(parts.media.remote.clone()),
            decoders: Semaphore::new(parts.media.n_decoders.max(1)),
            decoding: MediaMemory::new(parts.media.n_bytes_held_max),
            media: parts.media,
        });
        let handler = Arc::new(WorkerHandler(Arc::clone(&shared)));
        let answered = parts.planes.messaging.serve(&address, handler).await?;
        let has_kv = parts.stages.has(Stage::Prefill) || parts.stages.has(Stage::Decode);
        let instance = Instance {
            id,
            model: parts.model,
            card: card_digest,
            stages: parts.stages,
            address,
            transports,
            kv: has_kv.then(|| layout(&shared.engine)),
            encode_endpoint: parts.encode_endpoint,
        };
        let presence = Presence::take(&shared, instance).await?;
        let connecting = tokio::spawn(connect_to_all(Arc::downgrade(&shared), parts.stages));
        Ok(Self {
            presence: Some(presence),
            _answered: answered,
            _lent: lent,
            _reaper: reaper,
            connecting,
            shared,
        })
    }

    /// Leaves the membership; whoever still has its address is answered.
    pub fn withdraw(&mut self) {
        self.presence = None;
    }

    /// Waits until the calls under way have ended, for `patience` at most; false when some had
    /// not.
    pub async fn calls_ended(&self, patience: Duration) -> bool {
        self.shared.calls.ended(patience).await
    }

    /// What may be seen of it from outside, for as long as anybody looks.
    pub fn view(&self) -> WorkerView {
        WorkerView(Arc::clone(&self.shared))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.connecting.abort();
    }
}

/// A worker seen from outside: figures for metrics and tests.
#[derive(Clone)]
pub struct WorkerView(Arc<Shared>);

impl WorkerView {
    /// Leases in force: rows and KV blocks that peers may read.
    pub fn n_leases(&self) -> usize {
        self.0.leases.n_leases()
    }

    /// Leases that ended at their deadline so far.
    pub fn n_leases_expired(&self) -> u64 {
        self.0.leases.n_expired()
    }

    /// Calls that it is answering.
    pub fn n_calls(&self) -> usize {
        self.0.calls.n_running()
    }

    /// KV blocks promised to prompts that are on their way.
    pub fn n_blocks_promised(&self) -> usize {
        self.0.credits.n_promised()
    }

    /// Where its memory is served.
    pub fn transports(&self) -> &[String] {
        &self.0.transports
    }

    /// Where it takes calls.
    pub fn address(&self) -> &Address {
        &self.0.address
    }

    /// Media whose rows are kept for peers.
    pub fn n_rows_kept(&self) -> usize {
        self.0.rows.len()
    }

    /// The engine behind it.
    pub fn engine(&self) -> &Engine {
        &self.0.engine
    }
}
