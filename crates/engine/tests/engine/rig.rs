//! An engine on a test bench: asks, answers, and the caller's duties (encode what is needed,
//! supply).

use crate::toy::Toy;
use engine::{
    Backend, Condition, EncodeJob, Engine, EngineConfig, EngineStats, SchedulerConfig, SeqEvent,
    SeqRequest, SeqSink, Until, Used,
};
use models::{LoadFormat, MediaPlan, Model, PreparedMedia};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tensor::{DType, Device, SlabRange};
use types::content::{BlockRoot, CanonicalHasher, Digest};
use types::media::{Grid, MediaItem, MediaKind};
use types::output::{FinishReason, OutputToken};
use types::prompt::{ExpandedPrompt, expand};
use types::sampling::SamplingParams;
use types::{Error, RequestId, Result, TokenId};

/// Longest wait for anything in these tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The toy and a real architecture.
pub(crate) fn models() -> [Arc<dyn Model>; 2] {
    [Toy::model(), golden()]
}

/// The tiny checkpoint, loaded once.
pub(crate) fn golden() -> Arc<dyn Model> {
    static MODEL: OnceLock<Arc<dyn Model>> = OnceLock::new();
    Arc::clone(MODEL.get_or_init(|| golden_on(&Device::all_cpus())))
}

/// The tiny checkpoint on a device.
pub(crate) fn golden_on(device: &Device) -> Arc<dyn Model> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests");
    let folder = tests.join("goldens/qwen2_vl/checkpoint");
    models::load(&folder, LoadFormat::Auto, device).expect("the checkpoint loads")
}

/// Sizes that tests vary.
#[derive(Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) block_size: usize,
    pub(crate) n_blocks: usize,
    pub(crate) max_batch_size: usize,
    pub(crate) max_num_tokens: usize,
    pub(crate) reuse_blocks: bool,
    pub(crate) embedding_rows: usize,
    /// Whether the next step is planned while one runs.
    pub(crate) overlap: bool,
    /// Recorded sizes; of a GPU only.
    pub(crate) graph_batch_sizes: &'static [usize],
}

impl Setup {
    /// With steps one after the other, and planned ahead.
    pub(crate) fn both_ways(self) -> [Self; 2] {
        [false, true].map(|overlap| Self { overlap, ..self })
    }
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            block_size: 4,
            n_blocks: 256,
            max_batch_size: 16,
            max_num_tokens: 256,
            reuse_blocks: true,
            embedding_rows: 1000,
            overlap: false,
            graph_batch_sizes: &[],
        }
    }
}

/// An engine and its model.
pub(crate) struct Rig {
    pub(crate) engine: Engine,
    pub(crate) model: Arc<dyn Model>,
    pub(crate) n_blocks: usize,
}

pub(crate) fn config(model: &Arc<dyn Model>, setup: Setup) -> EngineConfig {
    EngineConfig {
        scheduler: SchedulerConfig {
            block_size: setup.block_size,
            n_blocks: setup.n_blocks,
            max_batch_size: setup.max_batch_size,
            max_num_tokens: setup.max_num_tokens,
            min_piece_tokens: 1,
            max_seq_len: model.spec().max_seq_len,
            max_queue_len: 64,
            reuse_blocks: setup.reuse_blocks,
            encoder_max_num_tokens: 64,
            encoder_max_batch_size: 4,
        },
        embedding_bytes: setup.embedding_rows * model.spec().hidden_size * size_of::<f32>(),
        eos_token_ids: model.spec().eos_token_ids.clone(),
        kv_dtype: DType::F32,
        graph_batch_sizes: setup.graph_batch_sizes.to_vec(),
        tower: None,
        overlap: setup.overlap,
    }
}

/// One request.
#[derive(Clone)]
pub(crate) struct Ask {
    pub(crate) prompt: ExpandedPrompt,
    pub(crate) media: Vec<PreparedMedia>,
    pub(crate) sampling: SamplingParams,
    pub(crate) salt: &'static str,
    pub(crate) until: Until,
    pub(crate) first_choice: u32,
    pub(crate) n_answered: usize,
}

/// What became of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Answer {
    pub(crate) cached_tokens: u32,
    pub(crate) choices: Vec<Vec<OutputToken>>,
    pub(crate) reasons: Vec<Option<FinishReason>>,
    pub(crate) exported: Option<(RequestId, Vec<u32>, i64)>,
    pub(crate) preempted: Vec<u32>,
    pub(crate) failed: Option<Error>,
}

impl Answer {
    /// The tokens of one choice.
    pub(crate) fn tokens(&self, choice: usize) -> Vec<TokenId> {
        self.choices[choice].iter().map(|token| token.token).collect()
    }

    /// The tokens of all choices.
    pub(crate) fn all_tokens(&self) -> Vec<Vec<TokenId>> {
        (0..self.choices.len()).map(|choice| self.tokens(choice)).collect()
    }
}

/// What a request's sinks send to the bench.
pub(crate) enum Note {
    Event(SeqEvent),
    Rows(usize, Result<Arc<SlabRange>>),
    /// The engine let go of the request.
    Gone,
}

/// Where notes go, each with the index of its request.
pub(crate) type Notes = Sender<(usize, Note)>;

/// Sends `Gone` when the engine drops the sink it is in.
struct GoneOnDrop(Notes, usize);

impl Drop for GoneOnDrop {
    fn drop(&mut self) {
        drop(self.0.send((self.1, Note::Gone)));
    }
}

/// A sink whose notes carry `idx`.
pub(crate) fn sink(notes: &Notes, idx: usize) -> SeqSink {
    let guard = GoneOnDrop(notes.clone(), idx);
    Box::new(move |event| drop(guard.0.send((guard.1, Note::Event(event)))))
}

pub(crate) fn new_id() -> RequestId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    RequestId(u128::from(NEXT.fetch_add(1, Ordering::Relaxed)))
}

pub(crate) fn root(salt: &str) -> Digest {
    let card = Digest([1; 32]);
    BlockRoot { card, kv_dtype: "f32", cache_salt: salt, lora_id: "" }.key()
}

impl Rig {
    pub(crate) fn new(model: &Arc<dyn Model>, setup: Setup) -> Self {
        Self::on(&Device::all_cpus(), model, setup)
    }

    pub(crate) fn on(device: &Device, model: &Arc<dyn Model>, setup: Setup) -> Self {
        let backend = Backend::Model(Arc::clone(model), device.clone());
        let cfg = EngineConfig { kv_dtype: device.compute_dtype(), ..config(model, setup) };
        let engine = engine::start(backend, cfg).expect("the engine starts");
        engine.warm_up().expect("it becomes ready");
        Self { engine, model: Arc::clone(model), n_blocks: setup.n_blocks }
    }

    /// Runs one request to its end.
    pub(crate) fn ask(&self, ask: &Ask) -> Answer {
        self.ask_all(std::slice::from_ref(ask)).remove(0)
    }

    /// Runs requests at the same time.
    pub(crate) fn ask_all(&self, asks: &[Ask]) -> Vec<Answer> {
        let (sender, notes) = channel();
        let ids: Vec<RequestId> = asks.iter().map(|_| new_id()).collect();
        for (idx, ask) in asks.iter().enumerate() {
            self.submit(ids[idx], ask, sink(&sender, idx)).expect("the mailbox has room");
        }
        self.follow(asks, &ids, (&sender, &notes))
    }

    pub(crate) fn submit(&self, id: RequestId, ask: &Ask, sink: SeqSink) -> Result<()> {
        let request = SeqRequest {
            id,
            prompt: ask.prompt.clone(),
            sampling: ask.sampling.clone(),
            block_root: root(ask.salt),
            until: ask.until,
            priority: 0,
            first_choice: ask.first_choice,
            n_answered: ask.n_answered,
        };
        self.engine.submit(request, sink)
    }

    /// Does the caller's duties until all requests are gone.
    pub(crate) fn follow(
        &self,
        asks: &[Ask],
        ids: &[RequestId],
        (sender, notes): (&Notes, &Receiver<(usize, Note)>),
    ) -> Vec<Answer> {
        let mut answers: Vec<Answer> = asks.iter().map(empty_answer).collect();
        let mut n_open = asks.len();
        while n_open > 0 {
            let (idx, note) = notes.recv_timeout(PATIENCE).expect("the engine answers in time");
            match note {
                Note::Event(SeqEvent::Pinned { cached_tokens, needed_items }) => {
                    answers[idx].cached_tokens = cached_tokens;
                    for item_idx in needed_items {
                        let media = asks[idx].media[item_idx].clone();
                        self.encode((ids[idx], item_idx), media, (sender, idx));
                    }
                }
                Note::Event(event) => record(&mut answers[idx], ids[idx], &asks[idx], event),
                Note::Rows(item_idx, rows) => match rows {
                    Ok(rows) => self.engine.supply(ids[idx], item_idx, rows),
                    Err(error) => {
                        answers[idx].failed = Some(error);
                        self.engine.abort(ids[idx]);
                    }
                },
                Note::Gone => n_open -= 1,
            }
        }
        answers
    }

    /// Has one item encoded; its rows come as a note with `idx`.
    pub(crate) fn encode(
        &self,
        item: (RequestId, usize),
        media: PreparedMedia,
        notes: (&Notes, usize),
    ) {
        self.encode_for(Used::Elsewhere, item, media, notes);
    }

    /// The same for whoever computes with the rows.
    pub(crate) fn encode_for(
        &self,
        used: Used,
        (id, item_idx): (RequestId, usize),
        media: PreparedMedia,
        (sender, idx): (&Notes, usize),
    ) {
        let sender = sender.clone();
        let sink = move |rows| drop(sender.send((idx, Note::Rows(item_idx, rows))));
        let n_bytes = media.plan.n_tokens as usize * self.engine.n_row_bytes();
        let rows = self.engine.embeddings().alloc(n_bytes).expect("embedding memory");
        let job = EncodeJob { id, item_idx, media, rows, used };
        self.engine.encode(job, Box::new(sink)).expect("the mailbox has room");
    }

    /// Waits until the figures satisfy `holds`.
    pub(crate) fn wait_for(&self, what: &str, holds: impl Fn(&EngineStats) -> bool) {
        let started = Instant::now();
        while !holds(&self.engine.stats()) {
            assert!(started.elapsed() < PATIENCE, "never {what}: {:#?}", self.engine.stats());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until nothing is held: all blocks free or cached, no rows, no request, and the
    /// scheduler has found its accounts right.
    pub(crate) fn wait_until_empty(&self) {
        self.wait_for("empty", |stats| {
            let blocks = stats.scheduler.blocks;
            let n_requests = stats.scheduler.n_waiting
                + stats.scheduler.n_running
                + stats.scheduler.n_importing
                + stats.scheduler.n_imports_waiting
                + stats.scheduler.n_exported;
            blocks.free + blocks.cached == self.n_blocks
                && n_requests + stats.n_encode_waiting == 0
                && self.engine.embeddings().n_bytes_used() == 0
                && stats.checked
                && stats.condition == Condition::Well
        });
    }
}

fn empty_answer(ask: &Ask) -> Answer {
    let n = ask.sampling.n as usize;
    Answer { choices: vec![Vec::new(); n], reasons: vec![None; n], ..Answer::default() }
}

/// Notes everything but `Pinned` in an answer.
pub(crate) fn record(answer: &mut Answer, id: RequestId, ask: &Ask, event: SeqEvent) {
    let place = |choice: u32| (choice - ask.first_choice) as usize;
    match event {
        SeqEvent::Pinned { .. } => {}
        SeqEvent::Tokens { choice, tokens } => answer.choices[place(choice)].extend(tokens),
        SeqEvent::Finished { choice, reason } => answer.reasons[place(choice)] = Some(reason),
        SeqEvent::Exported { blocks, n_tokens, positions_delta } => {
            assert_eq!(n_tokens, ask.prompt.tokens.len());
            answer.exported = Some((id, blocks, positions_delta));
        }
        SeqEvent::ImportReady { .. } => panic!("imports are followed elsewhere"),
        SeqEvent::Preempted { choice } => answer.preempted.push(choice),
        SeqEvent::Failed(error) => answer.failed = Some(error),
    }
}

/// A picture of `h` by `w` patches, from a seed, with its processor options.
pub(crate) fn picture(seed: u64, h: u32, w: u32) -> PreparedMedia {
    let mut state = seed.wrapping_mul(0x9E37_79B9) + 1;
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    let n_bytes = 14 * 14 * 3 * h as usize * w as usize;
    let mut pixels: Vec<u8> = (0..n_bytes).map(|_| byte()).collect();
    // The toy refuses pictures that begin with 13.
    pixels[0] = 1;
    let size = models::Size { width: w, height: h };
    let plan = MediaPlan { size, grid: Grid { t: 1, h, w }, n_tokens: h * w / 4 };
    PreparedMedia { plan, pixels }
}

/// The identity of a picture under some processor options.
pub(crate) fn digest(media: &PreparedMedia, options: &str) -> Digest {
    let mut hasher = CanonicalHasher::new("test/picture");
    hasher.field(&media.pixels).field(options.as_bytes());
    let Grid { t, h, w } = media.plan.grid;
    hasher.number(u64::from(t)).number(u64::from(h)).number(u64::from(w)).finish()
}

/// A part of a prompt.
#[derive(Clone)]
pub(crate) enum Part {
    Text(Vec<TokenId>),
    Picture(PreparedMedia),
}

/// Some text: `len` tokens of the lower vocabulary.
pub(crate) fn text(seed: u32, len: usize) -> Part {
    let token = |idx: u32| 1 + (seed.wrapping_mul(31) + idx * idx * 7 + idx) % 50;
    Part::Text((0..len as u32).map(token).collect())
}

/// A greedy request for `max_tokens` tokens.
pub(crate) fn ask(model: &Arc<dyn Model>, parts: Vec<Part>, max_tokens: u32) -> Ask {
    let placeholder = model.spec().placeholders[0].token;
    let (mut tokens, mut media, mut items) = (Vec::new(), Vec::new(), Vec::new());
    for part in parts {
        match part {
            Part::Text(text) => tokens.extend(text),
            Part::Picture(picture) => {
                tokens.push(placeholder);
                items.push(MediaItem {
                    kind: MediaKind::Image,
                    digest: digest(&picture, "{}"),
                    grid: picture.plan.grid,
                    n_tokens: picture.plan.n_tokens,
                });
                media.push(picture);
            }
        }
    }
    let prompt =
        expand(&tokens, &model.spec().placeholders, &items, usize::MAX).expect("parts match");
    let sampling = SamplingParams {
        max_tokens: Some(max_tokens),
        ignore_eos: true,
        ..SamplingParams::default()
    };
    Ask { prompt, media, sampling, salt: "", until: Until::End, first_choice: 0, n_answered: 0 }
}
