//! Media waiting for the tower: taken in batches by patches, their rows put into embedding memory.
//!
//! A medium waits while that memory is full, in order, for a limited time.

use crate::request::{EncodeJob, EncodeSink};
use crate::runner::{Runner, guarded};
use crate::stats::EngineStats;
use models::{ModelSpec, PreparedMedia};
use scheduler::{EncodeEntry, EncodeQueue, SchedulerConfig};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tensor::{Slab, SlabRange};
use types::{Error, ErrorKind, RequestId, Result};

/// Longest wait of the first medium in the queue for embedding memory; then it fails, so that
/// requests that hold rows while they wait for more cannot block each other for ever.
const MEMORY_WAIT_MAX: Duration = Duration::from_secs(30);

/// The encoder's side of an engine.
pub(crate) struct Encoder {
    queue: EncodeQueue,
    pending: HashMap<(RequestId, usize), Pending>,
    slab: Arc<Slab>,
    hidden_size: usize,
    /// Since when the first medium waits for memory.
    blocked_since: Option<Instant>,
}

struct Pending {
    media: PreparedMedia,
    sink: EncodeSink,
}

/// A medium with memory for its rows.
struct Placed {
    pending: Pending,
    rows: SlabRange,
}

impl Encoder {
    pub(crate) fn new(cfg: &SchedulerConfig, spec: &ModelSpec, slab: Arc<Slab>) -> Self {
        let (n_patches, n_items) = (cfg.encoder_max_num_tokens, cfg.encoder_max_batch_size);
        Self {
            queue: EncodeQueue::new(n_patches, n_items, cfg.max_queue_len),
            pending: HashMap::new(),
            slab,
            hidden_size: spec.hidden_size,
            blocked_since: None,
        }
    }

    /// Bytes of the embedding of `n_tokens` rows.
    pub(crate) fn n_bytes(&self, n_tokens: u32) -> usize {
        n_tokens as usize * self.hidden_size * size_of::<f32>()
    }

    /// Queues a medium, or tells its sink why not.
    pub(crate) fn push(&mut self, job: EncodeJob, sink: EncodeSink) {
        let EncodeJob { id, item_idx, media } = job;
        let n_patches = media.plan.grid.n_patches();
        if let Err(error) = self.try_push(EncodeEntry { id, item_idx, n_patches }, &media) {
            return sink(Err(error));
        }
        self.pending.insert((id, item_idx), Pending { media, sink });
    }

    fn try_push(&mut self, entry: EncodeEntry, media: &PreparedMedia) -> Result<()> {
        if self.n_bytes(media.plan.n_tokens) > self.slab.arena().n_bytes() {
            let words = "the medium's embedding is larger than this server's embedding memory";
            return Err(Error::new(ErrorKind::TooLarge, words));
        }
        if self.pending.contains_key(&(entry.id, entry.item_idx)) {
            return Err(Error::internal("this medium is already queued"));
        }
        self.queue.push(entry)
    }

    /// Encodes one batch; false when there was none or no memory for the first medium.
    pub(crate) fn run(&mut self, runner: &Runner, stats: &mut EngineStats) -> bool {
        let batch = self.take_batch();
        if batch.is_empty() {
            self.give_up_waiting();
            return false;
        }
        self.blocked_since = None;
        let started = Instant::now();
        stats.n_encoded_items += batch.len() as u64;
        let patches = batch.iter().map(|placed| placed.pending.media.plan.grid.n_patches() as u64);
        stats.n_encoded_patches += patches.sum::<u64>();
        encode(runner, batch);
        stats.encode_us += started.elapsed().as_micros() as u64;
        true
    }

    fn take_batch(&mut self) -> Vec<Placed> {
        let Self { queue, pending, slab, hidden_size, .. } = self;
        let mut rows = Vec::new();
        let entries = queue.next(|entry| {
            let waiting = pending.get(&(entry.id, entry.item_idx));
            let n_tokens = waiting.map_or(0, |waiting| waiting.media.plan.n_tokens as usize);
            let range = slab.alloc(n_tokens * *hidden_size * size_of::<f32>());
            let has_room = range.is_some();
            rows.extend(range);
            has_room
        });
        let placed = entries.iter().zip(rows).filter_map(|(entry, rows)| {
            let pending = pending.remove(&(entry.id, entry.item_idx))?;
            Some(Placed { pending, rows })
        });
        placed.collect()
    }

    /// Fails the first medium when it has waited too long for memory.
    fn give_up_waiting(&mut self) {
        if self.queue.is_empty() {
            self.blocked_since = None;
            return;
        }
        if self.blocked_since.get_or_insert_with(Instant::now).elapsed() < MEMORY_WAIT_MAX {
            return;
        }
        self.blocked_since = None;
        let first = self.queue.pop();
        let first = first.and_then(|entry| self.pending.remove(&(entry.id, entry.item_idx)));
        if let Some(Pending { sink, .. }) = first {
            sink(Err(Error::new(ErrorKind::Overloaded, "no embedding memory became free")));
        }
    }

    /// Takes out what a request has queued.
    pub(crate) fn abort(&mut self, id: RequestId) {
        for item_idx in self.queue.abort(id) {
            if let Some(Pending { sink, .. }) = self.pending.remove(&(id, item_idx)) {
                sink(Err(Error::new(ErrorKind::Cancelled, "the request was cancelled")));
            }
        }
    }

    pub(crate) fn fail_all(&mut self, error: &Error) {
        while self.queue.pop().is_some() {}
        self.pending.drain().for_each(|(_, pending)| (pending.sink)(Err(error.clone())));
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether media wait for memory that may become free without a command.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.queue.is_empty()
    }
}

/// Encodes media together; when that fails, each alone, so that a bad one fails its request only.
fn encode(runner: &Runner, batch: Vec<Placed>) {
    let media: Vec<&PreparedMedia> = batch.iter().map(|placed| &placed.pending.media).collect();
    match guarded(|| runner.encode(&media)) {
        Ok(rows) => hand_out(batch, &rows),
        Err(error) if batch.len() == 1 => {
            batch.into_iter().for_each(|placed| (placed.pending.sink)(Err(error.clone())));
        }
        Err(_) => batch.into_iter().for_each(|placed| encode(runner, vec![placed])),
    }
}

fn hand_out(batch: Vec<Placed>, mut rows: &[f32]) {
    for Placed { pending, rows: mut range } in batch {
        let target = range.as_mut_slice::<f32>();
        let Some((own, rest)) = rows.split_at_checked(target.len()) else {
            let words = "the tower made fewer rows than were planned";
            (pending.sink)(Err(Error::internal(words)));
            continue;
        };
        target.copy_from_slice(own);
        rows = rest;
        (pending.sink)(Ok(Arc::new(range)));
    }
}
