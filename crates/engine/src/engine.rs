//! The handle of an engine: what other threads may ask of it.

use crate::command::Command;
use crate::config::{Backend, EngineConfig};
use crate::core::Core;
use crate::mailbox::Mailbox;
use crate::request::{EncodeJob, EncodeSink, ImportRequest, SeqRequest, SeqSink};
use crate::stats::{Condition, EngineStats};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tensor::{KvPool, Slab, SlabRange};
use types::{Error, ErrorKind, RequestId, Result};

/// Longest time that it may take to become ready.
const WARM_UP_TIME_MAX: Duration = Duration::from_secs(300);

/// A running engine; clones are handles to the same one. Dropping the last stops and joins its
/// thread.
#[derive(Clone)]
pub struct Engine(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What callers and the engine's thread both see.
pub(crate) struct Shared {
    pub(crate) mailbox: Mailbox,
    pub(crate) kv: KvPool,
    pub(crate) embeddings: Arc<Slab>,
    pub(crate) stats: Mutex<EngineStats>,
    /// Why it has broken down, once it has.
    pub(crate) breakdown: OnceLock<String>,
    n_row_bytes: usize,
}

/// Reserves an engine's memory and starts its thread.
///
/// Errors: impossible limits, or the system gives no memory or thread.
pub fn start(backend: Backend, cfg: EngineConfig) -> Result<Engine> {
    let layout = cfg.kv_layout(backend.spec());
    let device = backend.device();
    let shared = Arc::new(Shared {
        mailbox: Mailbox::default(),
        kv: KvPool::on(&device, layout, cfg.scheduler.n_blocks)?,
        embeddings: Slab::new(device.arena(cfg.embedding_bytes)?),
        stats: Mutex::default(),
        breakdown: OnceLock::new(),
        n_row_bytes: backend.spec().hidden_size * size_of::<f32>(),
    });
    let core = Core::new(backend, &cfg, Arc::clone(&shared))?;
    let thread = std::thread::Builder::new().name("engine".into()).spawn(move || core.run());
    let thread =
        thread.map_err(|error| Error::internal(format!("cannot start a thread: {error}")))?;
    Ok(Engine(Arc::new(Handle { shared, thread: Mutex::new(Some(thread)) })))
}

impl Engine {
    /// Makes ready what would otherwise be made at the first step that needs it (recorded steps),
    /// and waits for it. Errors: the device fails, or has no memory left.
    pub fn warm_up(&self) -> Result<()> {
        let (sender, ready) = sync_channel(1);
        let sink = move |outcome| drop(sender.send(outcome));
        self.0.shared.mailbox.post(Command::WarmUp(Box::new(sink)))?;
        let outcome = ready.recv_timeout(WARM_UP_TIME_MAX);
        outcome.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Unavailable, "the engine does not become ready"))
        })
    }

    /// Queues a medium for the tower. Errors: `Overloaded` when the queue is full, `Unavailable`
    /// when the engine has stopped; everything else is told to the sink.
    pub fn encode(&self, job: EncodeJob, sink: EncodeSink) -> Result<()> {
        self.0.shared.mailbox.post(Command::Encode(Box::new(job), sink))
    }

    /// Queues a prompt. Errors: `Overloaded` when the queue is full, `Unavailable` when the engine
    /// has stopped; everything else, a request that can never fit included, is told to the sink.
    pub fn submit(&self, request: SeqRequest, sink: SeqSink) -> Result<()> {
        self.0.shared.mailbox.post(Command::Submit(Box::new(request), sink))
    }

    /// Gives the embedding rows of one item of a submitted request, f32 `[n_tokens, hidden_size]`.
    pub fn supply(&self, id: RequestId, item_idx: usize, rows: Arc<SlabRange>) {
        self.tell(Command::Supply { id, item_idx, rows });
    }

    /// Queues a prompt that another engine has computed: its blocks are reserved all at once, then
    /// `ImportReady` comes. Errors: as [`Self::submit`].
    pub fn import(&self, request: ImportRequest, sink: SeqSink) -> Result<()> {
        self.0.shared.mailbox.post(Command::Import(Box::new(request), sink))
    }

    /// The bytes of an import's missing blocks have arrived. After an abort: the transfer no longer
    /// touches them.
    pub fn imported(&self, id: RequestId) {
        self.tell(Command::Imported(id));
    }

    /// Ends one choice of a request now, as a stop token would: `Finished` with
    /// [`FinishReason::Stop`](types::output::FinishReason::Stop) follows, the other choices go on,
    /// and after the last the sink is dropped. Tokens already delivered stay. Nothing happens when
    /// the choice has ended, or goes on elsewhere.
    pub fn finish_choice(&self, id: RequestId, choice: u32) {
        self.tell(Command::FinishChoice { id, choice });
    }

    /// Forgets all of a request: media to encode, sequences, import, export. No event follows;
    /// encode sinks get `Cancelled`.
    pub fn abort(&self, id: RequestId) {
        self.tell(Command::Abort(id));
    }

    /// A peer no longer needs the exported blocks of a request, or a transfer into the blocks of an
    /// aborted import is over.
    pub fn release(&self, id: RequestId) {
        self.tell(Command::Release(id));
    }

    /// The KV memory: block `b` is bytes `[b * block_bytes, (b + 1) * block_bytes)` of its arena.
    pub fn kv(&self) -> &KvPool {
        &self.0.shared.kv
    }

    /// The embedding memory, for rows made here and rows pulled from elsewhere.
    pub fn embeddings(&self) -> &Arc<Slab> {
        &self.0.shared.embeddings
    }

    /// Bytes of one embedding row.
    pub fn n_row_bytes(&self) -> usize {
        self.0.shared.n_row_bytes
    }

    /// Figures as of the last turn of the loop; those of embedding memory, which others give back
    /// while the loop sleeps, as of now.
    pub fn stats(&self) -> EngineStats {
        let last = *self.0.shared.stats.lock().unwrap_or_else(PoisonError::into_inner);
        EngineStats { embedding_bytes_used: self.embeddings().n_bytes_used(), ..last }
    }

    /// What may be expected of it, as of the last turn of the loop.
    pub fn condition(&self) -> Condition {
        self.0.shared.stats.lock().unwrap_or_else(PoisonError::into_inner).condition
    }

    /// Why it has broken down for good; `None` while it has not.
    pub fn breakdown(&self) -> Option<&str> {
        self.0.shared.breakdown.get().map(String::as_str)
    }

    /// Says what an engine that has stopped need not hear.
    fn tell(&self, command: Command) {
        drop(self.0.shared.mailbox.post(command));
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.mailbox.close();
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        // A sink that held the last handle drops it on the engine's own thread, which then ends.
        if let Some(thread) = thread.filter(|it| it.thread().id() != std::thread::current().id()) {
            drop(thread.join());
        }
    }
}
