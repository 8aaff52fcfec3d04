//! An engine, and requests to it as its workers make them.

use engine::{Backend, EncodeJob, Engine, EngineConfig, SchedulerConfig, SeqEvent, SeqRequest};
use engine::{SeqSink, Until, Used, usual_graph_batch_sizes};
use media::{Image, Size};
use models::{Description, MediaPlan, Model, PreparedMedia};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};
use tensor::Device;
use types::content::{CanonicalHasher, Digest};
use types::media::{MediaItem, MediaKind};
use types::prompt::{ExpandedPrompt, expand};
use types::sampling::SamplingParams;
use types::{Error, ErrorKind, RequestId, Result, TokenId};

/// Nothing that is asked here takes as long.
const ANSWER_DEADLINE: Duration = Duration::from_secs(900);
/// Tokens in a block of the cache.
const BLOCK_SIZE: usize = 32;
/// Requests that may wait.
const QUEUE_LEN_MAX: usize = 4096;
/// As `min_piece_tokens` of the scheduler's limits says.
const MIN_PIECE_TOKENS: usize = 64;
/// Patches and pictures of one run of the tower.
const ENCODER_PATCHES_MAX: usize = 16384;
const ENCODER_ITEMS_MAX: usize = 64;
/// Pictures that the tower has or that wait for it while others are beside it.
pub(crate) const PICTURES_BESIDE_MAX: usize = 2;
/// Threads that prepare pictures, as those of a worker do.
const PREPARING_THREADS_MAX: usize = 16;

/// What an engine must hold for the rows that it is to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) max_num_tokens: usize,
    pub(crate) max_batch_size: usize,
    /// Blocks of the cache.
    pub(crate) n_blocks: usize,
    /// Rows of pictures at a time.
    pub(crate) n_embedding_rows: usize,
}

/// How steps are given to the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stepping {
    /// As an engine does: recorded where that is possible, the next one planned while one runs.
    Usual,
    /// Launch by launch and one by one, so that a trace sees them.
    Plain,
}

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    /// With one token in the place of the picture.
    pub(crate) prompt: Vec<TokenId>,
    pub(crate) picture: Option<Arc<Image>>,
    pub(crate) n_tokens: u32,
}

/// What came of requests that were made together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Round {
    /// From the first request to the last token.
    pub(crate) elapsed: Duration,
    pub(crate) answers: Vec<Vec<TokenId>>,
}

/// A running engine.
pub(crate) struct Rig {
    engine: Engine,
    description: Description,
    n_asked: AtomicU64,
}

/// What a sink says.
enum Told {
    Begun(Instant),
    Tokens(usize, Vec<TokenId>),
    Ended(Instant),
    Failed(Error),
}

/// Blocks that hold `n_tokens` tokens.
pub(crate) fn blocks_for(n_tokens: usize) -> usize {
    n_tokens.div_ceil(BLOCK_SIZE)
}

/// Tokens that `n_blocks` blocks hold.
pub(crate) fn tokens_in(n_blocks: usize) -> usize {
    n_blocks * BLOCK_SIZE
}

impl Rig {
    /// Errors: impossible sizes; the device has not that much memory.
    pub(crate) fn start(
        (model, device): (&Arc<dyn Model>, &Device),
        description: Description,
        sizes: Sizes,
        stepping: Stepping,
    ) -> Result<Self> {
        let spec = &description.spec;
        let n_row_bytes = spec.hidden_size * size_of::<f32>();
        let cfg = EngineConfig {
            scheduler: SchedulerConfig {
                block_size: BLOCK_SIZE,
                n_blocks: sizes.n_blocks,
                max_batch_size: sizes.max_batch_size,
                max_num_tokens: sizes.max_num_tokens,
                min_piece_tokens: MIN_PIECE_TOKENS,
                max_seq_len: spec.max_seq_len,
                max_queue_len: QUEUE_LEN_MAX,
                reuse_blocks: false,
                encoder_max_num_tokens: ENCODER_PATCHES_MAX,
                encoder_max_batch_size: ENCODER_ITEMS_MAX,
            },
            embedding_bytes: (sizes.n_embedding_rows * n_row_bytes).max(1),
            eos_token_ids: spec.eos_token_ids.clone(),
            kv_dtype: device.compute_dtype(),
            graph_batch_sizes: match stepping {
                Stepping::Usual => usual_graph_batch_sizes(sizes.max_batch_size),
                Stepping::Plain => Vec::new(),
            },
            tower: None,
            overlap: stepping == Stepping::Usual,
        };
        let engine = engine::start(Backend::Model(Arc::clone(model), device.clone()), cfg)?;
        Ok(Self { engine, description, n_asked: AtomicU64::new(1) })
    }

    /// Records the steps that can be recorded.
    ///
    /// Errors: the device fails.
    pub(crate) fn warm_up(&self) -> Result<()> {
        self.engine.warm_up()
    }

    /// How a square picture is seen.
    ///
    /// Errors: the model takes none, or not of that size.
    pub(crate) fn plan(&self, side: u32) -> Result<MediaPlan> {
        plan(&self.description, Size::new(side, side))
    }

    /// Bytes of the cache.
    pub(crate) fn kv_bytes(&self) -> usize {
        self.engine.kv().arena.n_bytes()
    }

    /// Answers all of `asks`, which have no pictures and come at the same moment: a further request
    /// goes before them, at whose end, on the engine's own thread, they are all queued.
    ///
    /// Errors: a request failed.
    pub(crate) fn at_once(&self, asks: &[Ask]) -> Result<Round> {
        self.at_once_after(asks, || Ok(()))
    }

    /// [`Self::at_once`], with something to be done on the engine's thread when nothing but these
    /// requests is left.
    ///
    /// Errors: a request failed, or `begin`.
    pub(crate) fn at_once_after(
        &self,
        asks: &[Ask],
        begin: impl FnOnce() -> Result<()> + Send + 'static,
    ) -> Result<Round> {
        let mut begin = Some(begin);
        let (sender, receiver) = channel();
        let mut waiting: Vec<(SeqRequest, SeqSink)> = Vec::with_capacity(asks.len());
        for (idx, ask) in asks.iter().enumerate() {
            let prompt = ExpandedPrompt { tokens: ask.prompt.clone(), items: Vec::new() };
            waiting.push((self.request(prompt, ask.n_tokens), sink(sender.clone(), idx)));
        }
        let first = ExpandedPrompt { tokens: vec![0], items: Vec::new() };
        let engine = self.engine.clone();
        let open = move |event| match event {
            SeqEvent::Finished { .. } => {
                if let Some(Err(error)) = begin.take().map(|begin| begin()) {
                    tell(&sender, Told::Failed(error));
                }
                tell(&sender, Told::Begun(Instant::now()));
                for (request, sink) in waiting.drain(..) {
                    if let Err(error) = engine.submit(request, sink) {
                        tell(&sender, Told::Failed(error));
                    }
                }
            }
            SeqEvent::Failed(error) => tell(&sender, Told::Failed(error)),
            _ => {}
        };
        self.engine.submit(self.request(first, 1), Box::new(open))?;
        collect(&receiver, asks.len())
    }

    /// Answers all of `asks`, which have a picture each, from decoded pixels on: as many threads as
    /// a worker has prepare them, and each request goes on by itself.
    ///
    /// Errors: a request failed.
    pub(crate) fn with_pictures(&self, asks: &[Ask]) -> Result<Round> {
        let (sender, receiver) = channel();
        let n_threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let next = AtomicUsize::new(0);
        tell(&sender, Told::Begun(Instant::now()));
        std::thread::scope(|scope| {
            for _ in 0..n_threads.min(PREPARING_THREADS_MAX).min(asks.len()) {
                scope.spawn(|| {
                    let next_idx = || Some(next.fetch_add(1, Ordering::Relaxed));
                    while let Some(idx) = next_idx().filter(|&idx| idx < asks.len()) {
                        if let Err(error) = self.show(&asks[idx], idx, &sender) {
                            tell(&sender, Told::Failed(error));
                        }
                    }
                });
            }
            collect(&receiver, asks.len())
        })
    }

    /// Queues one request with its picture.
    fn show(&self, ask: &Ask, idx: usize, sender: &Sender<Told>) -> Result<()> {
        let image = ask.picture.as_ref().ok_or_else(|| Error::internal("no picture"))?;
        let processor = &self.description.processor;
        let plan = plan(&self.description, image.size())?;
        let media = processor.prepare(image, &plan, "{}")?;
        let item = MediaItem {
            kind: MediaKind::Image,
            digest: self.digest(),
            grid: plan.grid,
            n_tokens: plan.n_tokens,
        };
        let prompt = expand(&ask.prompt, &self.description.spec.placeholders, &[item], usize::MAX)?;
        let request = self.request(prompt, ask.n_tokens);
        let (engine, id, failed) = (self.engine.clone(), request.id, sender.clone());
        let job = self.job(id, media)?;
        self.engine.submit(request, sink(sender.clone(), idx))?;
        let supply = move |rows| match rows {
            Ok(rows) => engine.supply(id, 0, rows),
            Err(error) => tell(&failed, Told::Failed(error)),
        };
        self.engine.encode(job, Box::new(supply))
    }

    /// Shows the picture of `ask` to the tower again and again, so that it always has another one
    /// to see, until `is_over`; gives how often.
    ///
    /// Errors: the tower failed.
    pub(crate) fn show_until(&self, ask: &Ask, is_over: &AtomicBool) -> Result<usize> {
        let image = ask.picture.as_ref().ok_or_else(|| Error::internal("no picture"))?;
        let plan = plan(&self.description, image.size())?;
        let media = self.description.processor.prepare(image, &plan, "{}")?;
        let (sender, receiver) = channel();
        let (mut n_shown, mut n_ended) = (0, 0);
        while !is_over.load(Ordering::Relaxed) || n_ended < n_shown {
            while !is_over.load(Ordering::Relaxed) && n_shown - n_ended < PICTURES_BESIDE_MAX {
                let id = RequestId(u128::from(self.n_asked.fetch_add(1, Ordering::Relaxed)));
                let job = self.job(id, media.clone())?;
                let sender = sender.clone();
                let told = move |rows: Result<_>| drop(sender.send(rows.map(|_| ())));
                self.engine.encode(job, Box::new(told))?;
                n_shown += 1;
            }
            let seen = receiver.recv_timeout(ANSWER_DEADLINE);
            seen.map_err(|_| Error::new(ErrorKind::Timeout, "the tower did not answer"))??;
            n_ended += 1;
        }
        Ok(n_shown)
    }

    /// The only picture of request `id`, and memory for its rows. Errors: there is none.
    fn job(&self, id: RequestId, media: PreparedMedia) -> Result<EncodeJob> {
        let n_bytes = media.plan.n_tokens as usize * self.engine.n_row_bytes();
        let rows = self.engine.embeddings().alloc(n_bytes);
        let rows = rows.ok_or_else(|| Error::internal("no memory for a picture's rows"))?;
        Ok(EncodeJob { id, item_idx: 0, media, rows, used: Used::Elsewhere })
    }

    fn request(&self, prompt: ExpandedPrompt, n_tokens: u32) -> SeqRequest {
        let max_tokens = Some(n_tokens);
        SeqRequest {
            id: RequestId(u128::from(self.n_asked.fetch_add(1, Ordering::Relaxed))),
            prompt,
            sampling: SamplingParams { max_tokens, ignore_eos: true, ..SamplingParams::default() },
            block_root: Digest::default(),
            until: Until::End,
            priority: 0,
            first_choice: 0,
            n_answered: 0,
        }
    }

    /// Of a picture that nobody has seen before.
    fn digest(&self) -> Digest {
        let mut hasher = CanonicalHasher::new("triptych/bench/picture");
        hasher.number(self.n_asked.fetch_add(1, Ordering::Relaxed)).finish()
    }
}

fn plan(description: &Description, size: Size) -> Result<MediaPlan> {
    description.processor.plan(MediaKind::Image, size, "{}")
}

fn sink(sender: Sender<Told>, idx: usize) -> SeqSink {
    Box::new(move |event| match event {
        SeqEvent::Tokens { tokens, .. } => {
            tell(&sender, Told::Tokens(idx, tokens.iter().map(|token| token.token).collect()));
        }
        SeqEvent::Finished { .. } => tell(&sender, Told::Ended(Instant::now())),
        SeqEvent::Failed(error) => tell(&sender, Told::Failed(error)),
        _ => {}
    })
}

/// Whoever has stopped listening has an error already.
fn tell(sender: &Sender<Told>, told: Told) {
    drop(sender.send(told));
}

/// Waits for the ends of `n` answers.
fn collect(receiver: &Receiver<Told>, n: usize) -> Result<Round> {
    let deadline = Instant::now() + ANSWER_DEADLINE;
    let (mut begun, mut last, mut n_ended) = (None, None, 0);
    let mut answers = vec![Vec::new(); n];
    while n_ended < n {
        let left = deadline.saturating_duration_since(Instant::now());
        let told = receiver.recv_timeout(left);
        match told.map_err(|_| Error::new(ErrorKind::Timeout, "the engine did not answer"))? {
            Told::Begun(at) => begun = Some(at),
            Told::Tokens(idx, tokens) => answers[idx].extend(tokens),
            Told::Ended(at) => {
                n_ended += 1;
                last = Some(at);
            }
            Told::Failed(error) => return Err(error),
        }
    }
    let elapsed = begun.zip(last).map(|(begun, last)| last - begun);
    Ok(Round { elapsed: elapsed.unwrap_or_default(), answers })
}
