//! Media waiting for the tower: taken in batches by patches, their rows put where the job says.

use crate::request::{EncodeJob, EncodeSink, Used};
use crate::runner::{Runner, guarded};
use crate::stats::EngineStats;
use models::ModelSpec;
use scheduler::{EncodeEntry, EncodeQueue, SchedulerConfig};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;
use tensor::SlabRange;
use tensor::cuda::{Event, Urgency};
use types::{Error, ErrorKind, RequestId, Result};

/// A medium that waits counts as much as so many sequences in a step, which wait for a token each:
/// measured, what evens out steps costs many pictures at once the least so (docs/decisions.md).
const WEIGHT_OF_MEDIUM: usize = 4;

/// The encoder's side of an engine.
pub(crate) struct Encoder {
    queue: EncodeQueue,
    pending: HashMap<(RequestId, usize), Pending>,
    /// What the tower works on, in order.
    encoding: VecDeque<Encoding>,
    /// Rows that the engine has not been given yet.
    supplied: Vec<Supplied>,
    hidden_size: usize,
}

struct Pending {
    job: EncodeJob,
    sink: EncodeSink,
    arrived: Instant,
}

/// Rows for a request of this engine.
pub(crate) struct Supplied {
    pub(crate) id: RequestId,
    pub(crate) item_idx: usize,
    pub(crate) rows: Arc<SlabRange>,
}

/// Media that the tower works on.
struct Encoding {
    batch: Vec<Pending>,
    /// Comes when their rows are there; they are already if there is none.
    done: Option<Event>,
    since: Instant,
}

impl Encoder {
    pub(crate) fn new(cfg: &SchedulerConfig, spec: &ModelSpec) -> Self {
        let (n_patches, n_items) = (cfg.encoder_max_num_tokens, cfg.encoder_max_batch_size);
        Self {
            queue: EncodeQueue::new(n_patches, n_items, cfg.max_queue_len),
            pending: HashMap::new(),
            encoding: VecDeque::new(),
            supplied: Vec::new(),
            hidden_size: spec.hidden_size,
        }
    }

    /// Bytes of the embedding of `n_tokens` rows.
    pub(crate) fn n_bytes(&self, n_tokens: u32) -> usize {
        n_tokens as usize * self.hidden_size * size_of::<f32>()
    }

    /// Queues a medium, or tells its sink why not.
    pub(crate) fn push(&mut self, job: EncodeJob, sink: EncodeSink) {
        if let Err(error) = self.try_push(&job) {
            return sink(Err(error));
        }
        let arrived = Instant::now();
        self.pending.insert((job.id, job.item_idx), Pending { job, sink, arrived });
    }

    fn try_push(&mut self, job: &EncodeJob) -> Result<()> {
        if job.rows.n_bytes() != self.n_bytes(job.media.plan.n_tokens) {
            return Err(Error::internal("a medium came with memory of another size than its rows"));
        }
        if self.pending.contains_key(&(job.id, job.item_idx)) {
            return Err(Error::internal("this medium is already queued"));
        }
        let n_patches = job.media.plan.grid.n_patches();
        self.queue.push(EncodeEntry { id: job.id, item_idx: job.item_idx, n_patches })
    }

    /// Hands out what has been encoded, and begins the next batch when the tower is free; whether
    /// anything happened.
    ///
    /// Errors: the device failed, after work had been given to it.
    pub(crate) fn run(
        &mut self,
        (runner, n_seqs): (&Runner, usize),
        stats: &mut EngineStats,
    ) -> Result<bool> {
        let has_ended = self.hand_out(stats)?;
        if self.is_busy() {
            return Ok(has_ended);
        }
        let batch = self.take_batch();
        if batch.is_empty() {
            return Ok(has_ended);
        }
        stats.n_encoded_items += batch.len() as u64;
        let patches = batch.iter().map(|pending| pending.job.media.plan.grid.n_patches() as u64);
        stats.n_encoded_patches += patches.sum::<u64>();
        stats.encode_batches.add(batch.len() as u64);
        let n_waiting = self.queue.len() + batch.len();
        self.begin((runner, urgency(n_seqs, n_waiting)), batch)?;
        self.hand_out(stats)?;
        Ok(true)
    }

    /// Rows that have come since the last time, for requests of this engine.
    pub(crate) fn take_supplied(&mut self) -> Vec<Supplied> {
        std::mem::take(&mut self.supplied)
    }

    /// Whether the tower works on something.
    pub(crate) fn is_busy(&self) -> bool {
        !self.encoding.is_empty()
    }

    /// Gives media to the tower together; when that fails, each alone, so that a bad one fails its
    /// request only. Errors: the device is lost; the media stay here for [`Self::fail_all`].
    fn begin(
        &mut self,
        (runner, urgency): (&Runner, Urgency),
        mut batch: Vec<Pending>,
    ) -> Result<()> {
        let since = Instant::now();
        let outcome = guarded(|| {
            let (media, mut places): (Vec<_>, Vec<_>) =
                batch.iter_mut().map(|Pending { job, .. }| (&job.media, &mut job.rows)).unzip();
            runner.encode(urgency, &media, &mut places)
        });
        let error = match outcome {
            Ok(done) => {
                self.encoding.push_back(Encoding { batch, done, since });
                return Ok(());
            }
            Err(error) => error,
        };
        if let Err(lost) = runner.synchronize() {
            self.encoding.push_back(Encoding { batch, done: None, since });
            return Err(lost);
        }
        if batch.len() == 1 {
            batch.into_iter().for_each(|pending| (pending.sink)(Err(error.clone())));
            return Ok(());
        }
        // All of them, so that no sink is forgotten when the device is lost half-way.
        let alone = batch.into_iter().map(|pending| self.begin((runner, urgency), vec![pending]));
        alone.fold(Ok(()), Result::and)
    }

    /// Tells the sinks of all media whose rows are there.
    fn hand_out(&mut self, stats: &mut EngineStats) -> Result<bool> {
        let mut has_ended = false;
        while let Some(first) = self.encoding.front()
            && first.done.as_ref().map_or(Ok(true), Event::has_come)?
        {
            has_ended = true;
            if let Some(first) = self.encoding.pop_front() {
                first.end(stats, &mut self.supplied);
            }
        }
        Ok(has_ended)
    }

    fn take_batch(&mut self) -> Vec<Pending> {
        let entries = self.queue.next_step();
        let pending = &mut self.pending;
        entries.iter().filter_map(|entry| pending.remove(&(entry.id, entry.item_idx))).collect()
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
        let encoding = self.encoding.drain(..).flat_map(|encoding| encoding.batch);
        encoding.for_each(|pending| (pending.sink)(Err(error.clone())));
        self.pending.drain().for_each(|(_, pending)| (pending.sink)(Err(error.clone())));
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }
}

/// How the tower shares the GPU with the steps of its own engine: together with `n_seqs` sequences,
/// while `n_waiting` media wait for it.
fn urgency(n_seqs: usize, n_waiting: usize) -> Urgency {
    match n_seqs {
        // Nobody here is delayed; the steps of other engines go first.
        0 => Urgency::Later,
        n if n < n_waiting * WEIGHT_OF_MEDIUM => Urgency::Now,
        _ => Urgency::Apart,
    }
}

impl Encoding {
    /// The rows are there.
    fn end(self, stats: &mut EngineStats, supplied: &mut Vec<Supplied>) {
        let ended = Instant::now();
        stats.encode_us += (ended - self.since).as_micros() as u64;
        for Pending { job, sink, arrived } in self.batch {
            stats.encode_waits_us.add((ended - arrived).as_micros() as u64);
            let (id, item_idx, rows) = (job.id, job.item_idx, Arc::new(job.rows));
            if job.used == Used::Here {
                supplied.push(Supplied { id, item_idx, rows: Arc::clone(&rows) });
            }
            sink(Ok(rows));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Urgency, WEIGHT_OF_MEDIUM, urgency};

    #[test]
    fn the_tower_shares_by_how_many_wait_for_it() {
        let n_waiting = 3;
        let n_alike = n_waiting * WEIGHT_OF_MEDIUM;
        for (n_seqs, expected) in [
            (0, Urgency::Later),
            (1, Urgency::Now),
            (n_alike - 1, Urgency::Now),
            (n_alike, Urgency::Apart),
            (64, Urgency::Apart),
        ] {
            assert_eq!(urgency(n_seqs, n_waiting), expected, "{n_seqs} sequences");
        }
    }
}
