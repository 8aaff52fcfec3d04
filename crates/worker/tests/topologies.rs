//! The same requests give the same tokens in every topology, and leave nothing behind.

#[path = "topologies/deadlines.rs"]
mod deadlines;
#[path = "topologies/failing.rs"]
mod failing;
#[path = "topologies/gate.rs"]
mod gate;
#[path = "topologies/handoffs.rs"]
mod handoffs;
#[path = "topologies/rows.rs"]
mod rows;
#[path = "topologies/told.rs"]
mod told;
#[path = "topologies/tower.rs"]
mod tower;

use engine::{Backend, EngineConfig, SchedulerConfig};
use futures::{StreamExt, stream};
use models::{Description, LoadFormat, Model};
use planes::{Planes, random};
use router::{Backend as _, Router, RouterConfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use telemetry::WorkerRecorder;
use tensor::{DType, Device};
use types::TokenId;
use types::media::{MediaKind, MediaRef, MediaSource};
use types::output::{FinishReason, GenerateEvent};
use types::request::GenerateRequest;
use types::sampling::SamplingParams;
use types::stage::{Stage, Stages};
use worker::{MediaPolicy, Worker, WorkerParts};

/// Requests of the comparison of one worker with three roles, and of each other topology.
const N_MANY: u64 = 1000;
const N_FEW: u64 = 120;

/// Requests with long answers.
const N_LONG: u64 = 40;

/// Requests under way at a time; fewer than the queues hold.
const N_AT_ONCE: usize = 120;

/// Blocks of a pool that never has to preempt, and of one that must.
const AMPLE: usize = 512;
const TIGHT: usize = 14;

/// Pictures of a request.
const N_MEDIA_MAX: usize = 3;

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens")
}

/// A model in memory, and pictures to ask it about.
struct Fixture {
    description: Description,
    model: Arc<dyn Model>,
    pictures: Vec<Arc<[u8]>>,
    kv_transfer_deadline: Duration,
    /// Embedding memory; `None` for plenty where there are blocks in plenty.
    embedding_bytes: Option<usize>,
    /// Whether steps are planned while others run.
    overlap: bool,
}

fn fixture() -> Fixture {
    let folder = goldens().join("qwen2_vl/checkpoint");
    let mut files: Vec<PathBuf> = std::fs::read_dir(goldens().join("media/formats"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "png"))
        .collect();
    files.sort();
    let read = |path: &PathBuf| Arc::from(std::fs::read(path).unwrap());
    Fixture {
        description: models::describe(&folder, LoadFormat::Auto).unwrap(),
        model: models::load(&folder, LoadFormat::Auto, &Device::all_cpus()).unwrap(),
        pictures: files.iter().map(read).collect(),
        kv_transfer_deadline: Duration::from_secs(60),
        embedding_bytes: None,
        overlap: false,
    }
}

/// Numbers that look random and are the same every time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % end
    }
}

fn request(fixture: &Fixture, seed: u64) -> GenerateRequest {
    let mut numbers = Numbers(seed);
    let placeholder = fixture.description.spec.placeholders[0].token;
    // A few openings are shared, so that prefixes meet in the cache.
    let opening = numbers.below(4);
    let mut prompt: Vec<TokenId> = (0..40).map(|i| ((opening * 7 + i) % 250) as TokenId).collect();
    let mut media = Vec::new();
    for idx in 0..numbers.below(N_MEDIA_MAX as u64 + 1) {
        let picture = numbers.below(fixture.pictures.len() as u64) as usize;
        prompt.push(placeholder);
        prompt.extend((0..numbers.below(30)).map(|i| (i * 3 + seed) as TokenId % 250));
        media.push(picture_at(fixture, picture, idx as usize));
    }
    let sampling = SamplingParams {
        temperature: if numbers.below(3) == 0 { 0.9 } else { 0.0 },
        seed,
        n: if numbers.below(4) == 0 { 3 } else { 1 },
        max_tokens: Some(1 + numbers.below(64) as u32),
        ignore_eos: numbers.below(2) == 0,
        ..SamplingParams::default()
    };
    GenerateRequest {
        id: random::request_id(),
        model: "tiny".into(),
        card: fixture.description.card.digest(),
        prompt,
        media,
        sampling,
        cache_salt: String::new(),
        first_token_deadline: Duration::from_secs(60),
        trace: String::new(),
    }
}

/// One short greedy answer about so many different pictures, with words before and behind each.
fn about(fixture: &Fixture, n_media: usize) -> GenerateRequest {
    let plain = request(fixture, 0);
    let placeholder = fixture.description.spec.placeholders[0].token;
    let mut prompt: Vec<TokenId> = (0..40).collect();
    let mut media = Vec::new();
    for idx in 0..n_media {
        prompt.push(placeholder);
        prompt.extend(50..70);
        // The first pictures in the folder look alike.
        let picture = fixture.pictures.len() - 1 - 4 * idx;
        media.push(picture_at(fixture, picture, idx));
    }
    let sampling =
        SamplingParams { max_tokens: Some(8), ignore_eos: true, ..SamplingParams::default() };
    let sampling = SamplingParams { temperature: 0.0, n: 1, ..sampling };
    GenerateRequest { prompt, media, sampling, ..plain }
}

fn picture_at(fixture: &Fixture, picture: usize, idx: usize) -> MediaRef {
    MediaRef {
        kind: MediaKind::Image,
        source: MediaSource::Bytes(Arc::clone(&fixture.pictures[picture])),
        uuid: None,
        processor_options: "{}".into(),
        param: format!("messages[0].content[{idx}]"),
    }
}

/// Embedding memory for the largest request and no more.
fn scarce_bytes(fixture: &Fixture) -> usize {
    let n_rows = |picture: &Arc<[u8]>| {
        let header = media::header(picture, &media::Limits::default()).unwrap();
        let plan = fixture.description.processor.plan(MediaKind::Image, header.size, "{}");
        plan.unwrap().n_tokens as usize
    };
    let n_rows_max = fixture.pictures.iter().map(n_rows).max().unwrap();
    N_MEDIA_MAX * n_rows_max * fixture.description.spec.hidden_size * size_of::<f32>()
}

fn sizes(fixture: &Fixture, n_blocks: usize) -> EngineConfig {
    let usual_bytes = if n_blocks == TIGHT { scarce_bytes(fixture) } else { 1 << 20 };
    EngineConfig {
        scheduler: SchedulerConfig {
            block_size: 32,
            n_blocks,
            max_batch_size: 16,
            max_num_tokens: 96,
            min_piece_tokens: 1,
            max_seq_len: 512,
            max_queue_len: 1024,
            reuse_blocks: true,
            encoder_max_num_tokens: 128,
            encoder_max_batch_size: 4,
        },
        embedding_bytes: fixture.embedding_bytes.unwrap_or(usual_bytes),
        eos_token_ids: fixture.description.spec.eos_token_ids.clone(),
        kv_dtype: DType::F32,
        graph_batch_sizes: Vec::new(),
        tower: None,
        overlap: fixture.overlap,
    }
}

async fn start(fixture: &Fixture, planes: &Planes, stages: Stages, n_blocks: usize) -> Worker {
    let backend = Backend::Model(Arc::clone(&fixture.model), Device::all_cpus());
    let description = &fixture.description;
    Worker::start(WorkerParts {
        planes: planes.clone(),
        engine: engine::start(backend, sizes(fixture, n_blocks)).unwrap(),
        processor: Arc::clone(&description.processor),
        placeholders: description.spec.placeholders.clone(),
        card: description.card.clone(),
        model: "tiny".into(),
        stages,
        endpoint: "test.worker.generate".into(),
        encode_endpoint: None,
        media: MediaPolicy {
            allowed_local_path: None,
            remote: fetch::Policy::default(),
            limits: media::Limits::default(),
            n_decoders: 2,
            n_bytes_held_max: 1 << 30,
        },
        kv_transfer_deadline: fixture.kv_transfer_deadline,
        recorder: WorkerRecorder::default(),
    })
    .await
    .unwrap()
}

/// `w` is a whole worker, `e`, `p`, `d` the roles, `q` prefill with a tower; a capital has few
/// blocks, and embedding memory for one request; `!` says that they must run out.
async fn start_all(fixture: &Fixture, planes: &Planes, roles: &str) -> Vec<Worker> {
    let mut workers = Vec::new();
    for role in roles.trim_end_matches('!').chars() {
        let stages = match role.to_ascii_lowercase() {
            'w' => Stages::ALL,
            'e' => Stages::of(&[Stage::Encode]),
            'p' => Stages::of(&[Stage::Prefill]),
            'q' => Stages::of(&[Stage::Encode, Stage::Prefill]),
            'd' => Stages::of(&[Stage::Decode]),
            other => panic!("no role {other}"),
        };
        let n_blocks = if role.is_uppercase() { TIGHT } else { AMPLE };
        workers.push(start(fixture, planes, stages, n_blocks).await);
    }
    workers
}

/// The tokens of each choice.
async fn answer(router: &Router, request: GenerateRequest) -> Vec<Vec<TokenId>> {
    let mut choices = vec![Vec::new(); request.sampling.n as usize];
    let mut n_ended = 0;
    let mut events = router.generate(request);
    while let Some(event) = events.next().await {
        match event.unwrap() {
            GenerateEvent::Admitted { .. } => {}
            GenerateEvent::Tokens { choice, tokens } => {
                choices[choice as usize].extend(tokens.iter().map(|token| token.token));
            }
            GenerateEvent::Finished { .. } => n_ended += 1,
        }
    }
    assert_eq!(n_ended, choices.len(), "every choice ends once");
    choices
}

/// Answers a request; gives how many tokens of its prompt were found in the prefix cache.
async fn n_cached(router: &Router, request: GenerateRequest) -> u32 {
    let mut events = router.generate(request);
    let mut n_cached = None;
    while let Some(event) = events.next().await {
        if let GenerateEvent::Admitted { cached_tokens, .. } = event.unwrap() {
            n_cached = Some(cached_tokens);
        }
    }
    n_cached.expect("it was admitted")
}

async fn answers(
    fixture: &Fixture,
    roles: &str,
    requests: impl Iterator<Item = GenerateRequest>,
) -> Vec<Vec<Vec<TokenId>>> {
    let planes = planes_mem::planes();
    let workers = start_all(fixture, &planes, roles).await;
    let router = Router::start(planes, RouterConfig::default()).await.unwrap();
    wait_for_members(&router).await;
    let all = requests.map(|request| answer(&router, request));
    let answers = stream::iter(all).buffered(N_AT_ONCE).collect().await;
    for (worker, role) in workers.iter().zip(roles.chars()) {
        check_nothing_is_left(worker, roles).await;
        // Prefill takes a prompt's blocks at once, so it mostly waits; what generates runs out.
        let n_preempted = worker.view().engine().stats().scheduler.n_preempted;
        let is_pressed = roles.ends_with('!') && "WD".contains(role);
        assert!(n_preempted > 0 || !is_pressed, "{roles}: {role} never ran out of blocks");
    }
    answers
}

async fn wait_for_members(router: &Router) {
    eventually("the model is ready", || {
        router.models().first().is_some_and(|model| model.missing.is_none())
    })
    .await;
}

async fn eventually(what: &str, is_true: impl Fn() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(10);
    while !is_true() {
        assert!(Instant::now() < give_up, "it never happened that {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn check_nothing_is_left(worker: &Worker, roles: &str) {
    let view = worker.view();
    let left = || {
        let stats = view.engine().stats();
        let blocks = stats.scheduler.blocks;
        let counts = [
            ("blocks", blocks.owned + blocks.leased + blocks.quarantined),
            ("sequences", stats.scheduler.n_running + stats.scheduler.n_waiting),
            ("bytes of rows", stats.embedding_bytes_used),
            ("leases", view.n_leases()),
            ("rows kept for peers", view.n_rows_kept()),
            ("blocks promised", view.n_blocks_promised()),
            ("calls", view.n_calls()),
        ];
        counts.into_iter().filter(|&(_, count)| count > 0).collect::<Vec<_>>()
    };
    let give_up = Instant::now() + Duration::from_secs(10);
    while !left().is_empty() {
        assert!(Instant::now() < give_up, "left behind in {roles}: {:?}", left());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_topology_gives_the_same_tokens() {
    let fixture = fixture();
    let requests = |n_requests| (0..n_requests).map(|seed| request(&fixture, seed));
    let one = answers(&fixture, "w", requests(N_MANY)).await;
    let many = [("epd", N_MANY)];
    let few = ["ww", "qd", "eeppdd", "eqpd", "W", "qD", "Qd", "QD", "ePd", "Epd", "EPD", "EEQPD"]
        .map(|roles| (roles, N_FEW));
    for (roles, n_requests) in many.into_iter().chain(few) {
        let others = answers(&fixture, roles, requests(n_requests)).await;
        for (seed, (expected, found)) in one.iter().zip(&others).enumerate() {
            assert_eq!(found, expected, "request {seed} in {roles}");
        }
    }
    let planned_ahead = Fixture { overlap: true, ..fixture };
    for roles in ["w", "epd", "EPD"] {
        let requests = (0..N_FEW).map(|seed| request(&planned_ahead, seed));
        let others = answers(&planned_ahead, roles, requests).await;
        for (seed, (expected, found)) in one.iter().zip(&others).enumerate() {
            assert_eq!(found, expected, "request {seed} in {roles}, planned ahead");
        }
    }
}

/// Long answers, of which a few fill a small pool: some give way and go on later.
#[tokio::test(flavor = "multi_thread")]
async fn a_choice_that_runs_out_of_blocks_goes_on_where_it_was() {
    let fixture = fixture();
    let long = |seed| {
        let mut request = request(&fixture, seed);
        request.sampling =
            SamplingParams { n: 1, max_tokens: Some(150), ignore_eos: true, ..request.sampling };
        request
    };
    let requests = || (0..N_LONG).map(long);
    let one = answers(&fixture, "w", requests()).await;
    for roles in ["W!", "qD!"] {
        let found = answers(&fixture, roles, requests()).await;
        assert!(found == one, "{roles}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_takes_its_work_along() {
    let fixture = fixture();
    for roles in ["w", "qd", "epd"] {
        let planes = planes_mem::planes();
        let workers = start_all(&fixture, &planes, roles).await;
        let router = Router::start(planes, RouterConfig::default()).await.unwrap();
        wait_for_members(&router).await;
        for seed in 0..60 {
            let mut request = request(&fixture, seed);
            request.sampling.max_tokens = Some(200);
            request.sampling.ignore_eos = true;
            let mut events = router.generate(request);
            // Leave at another moment each time: at once, or after some events, or in between.
            for _ in 0..seed % 5 {
                let _ = events.next().await;
            }
            let wait = events.next();
            let _ = tokio::time::timeout(Duration::from_micros(seed * 150), wait).await;
            drop(events);
        }
        for worker in &workers {
            check_nothing_is_left(worker, roles).await;
        }
    }
}

/// A reader who has seen enough of one choice ends it; the other goes on to its own end.
#[tokio::test(flavor = "multi_thread")]
async fn one_choice_is_ended_from_outside() {
    const N_TOKENS: u32 = 300;
    let fixture = fixture();
    for roles in ["w", "qd", "epd"] {
        let planes = planes_mem::planes();
        let workers = start_all(&fixture, &planes, roles).await;
        let router = Router::start(planes, RouterConfig::default()).await.unwrap();
        wait_for_members(&router).await;
        let mut request = request(&fixture, 1);
        request.sampling.n = 2;
        request.sampling.max_tokens = Some(N_TOKENS);
        request.sampling.ignore_eos = true;
        let id = request.id;
        let mut events = router.generate(request);
        let (mut n_tokens, mut reasons) = ([0, 0], [None, None]);
        while let Some(event) = events.next().await {
            match event.unwrap() {
                GenerateEvent::Admitted { .. } => {}
                GenerateEvent::Tokens { choice, tokens } => {
                    n_tokens[choice as usize] += tokens.len();
                    // More than the first token: whoever generates has the request by now.
                    if choice == 0 && n_tokens[0] > 1 {
                        router.finish_choice(id, 0);
                    }
                }
                GenerateEvent::Finished { choice, reason } => {
                    reasons[choice as usize] = Some(reason);
                }
            }
        }
        assert_eq!(reasons, [Some(FinishReason::Stop), Some(FinishReason::Length)], "{roles}");
        assert!(n_tokens[0] < N_TOKENS as usize, "{roles}: {n_tokens:?}");
        assert_eq!(n_tokens[1], N_TOKENS as usize, "{roles}");
        for worker in &workers {
            check_nothing_is_left(worker, roles).await;
        }
    }
}
