//! Sampling on a GPU against the processor's sampler on the same logits.

use super::super::cases::{Random, cuda_device};
use super::super::gpu_cases::poison;
use super::super::pack::{Pack, Packed};
use super::*;
use crate::cuda::{Cuda, Event};
use crate::device::Device;
use crate::dtype::DType;
use crate::tensor::Tensor;
use std::sync::Arc;
use std::thread;

/// Rows of one launch.
const BATCH: usize = 64;
/// Noise this close to where one token ends and the next begins may give either.
const NOISE_TOLERANCE: f64 = 1e-6;
const END_IDS: [TokenId; 2] = [0, 5];

fn gpu() -> Option<(Device, Arc<Cuda>)> {
    let device = cuda_device(DType::F32)?;
    let Device::Cuda(cuda) = &device else { unreachable!("asked for a GPU") };
    let cuda = Arc::clone(cuda);
    Some((device, cuda))
}

/// All that a draw refers to.
struct Request {
    row: usize,
    params: SamplingParams,
    prompt: Vec<TokenId>,
    answer: Vec<TokenId>,
    choice: u32,
}

impl Request {
    fn draw(&self) -> Draw<'_> {
        let (params, prompt, answer) = (&self.params, &self.prompt, &self.answer);
        Draw { params, prompt, answer, choice: self.choice, end_ids: &END_IDS }
    }
}

fn draws(requests: &[Request]) -> Vec<(usize, Draw<'_>)> {
    requests.iter().map(|request| (request.row, request.draw())).collect()
}

/// The next token of each draw.
fn sample(
    sampler: &mut DeviceSampler,
    logits: &Tensor,
    draws: &[(usize, Draw<'_>)],
) -> Result<Vec<Result<OutputToken>>> {
    let batch = sampler.prepare(draws, logits.n_rows())?;
    let mut pack = Pack::default();
    let parts = batch.pack(&mut pack);
    let packed = pack.to_device(&Device::Cuda(Arc::clone(&sampler.cuda)))?;
    sampler.launch(logits, &parts.unpack(&packed)?)?;
    let sampled = sampler.fetch(batch.n_rows())?;
    sampler.take(&sampled)
}

fn below(random: &mut Random, n: usize) -> usize {
    (f64::from(random.unit() + 1.0) / 2.0 * n as f64) as usize % n
}

fn one_of<T: Copy>(random: &mut Random, all: &[T]) -> T {
    all[below(random, all.len())]
}

/// About normal, with deviation 1.
fn normal(random: &mut Random) -> f32 {
    (0..3).map(|_| random.unit()).sum()
}

const N_KINDS: usize = 11;

/// Logits of the kinds that models give, and of those that they should not.
fn logits(random: &mut Random, kind: usize, vocab: usize) -> Vec<f32> {
    let scale = one_of(random, &[0.1, 1.0, 2.5, 8.0]);
    let lucky = below(random, vocab);
    (0..vocab)
        .map(|token| {
            let is_lucky = token == lucky;
            match kind {
                0 => normal(random) * scale,
                1 => (normal(random) * scale * 2.0).round() / 2.0,
                2 if is_lucky || random.unit() > 0.4 => normal(random),
                3 => normal(random) * 1e30,
                4 if is_lucky => 50.0,
                4 => 0.0,
                5 => normal(random) * 1e-40,
                6 => -7.25,
                7 => normal(random) * 2.0 + if random.unit() > 0.999 { 12.0 } else { 0.0 },
                8 => one_of(random, &[0.0, -0.0, 1e-45, -1e-45]),
                9 => normal(random) * 200.0,
                10 => random.unit() * f32::MAX,
                _ if is_lucky => 1.0,
                _ => f32::NEG_INFINITY,
            }
        })
        .collect()
}

fn random_request(random: &mut Random, n_rows: usize, vocab: usize) -> Request {
    let mut params = SamplingParams {
        temperature: one_of(random, &[0.0, 1e-5, 0.01, 0.3, 0.7, 1.0, 1.0, 1.5, 2.0]),
        top_p: one_of(random, &[1.0, 1.0, 0.999, 0.95, 0.9, 0.5, 0.1, 0.0]),
        top_k: one_of(random, &[0, 0, 0, 1, 2, 5, 20, 50, 1000, u32::MAX]),
        min_p: one_of(random, &[0.0, 0.0, 0.0, 0.01, 0.1, 0.5, 1.0, 1.5]),
        seed: u64::from(random.unit().to_bits()) << 20,
        logprobs: one_of(random, &[None, None, Some(0), Some(1), Some(5), Some(20)]),
        ..SamplingParams::default()
    };
    let n_tokens = below(random, 30);
    // Some tokens do not exist.
    let tokens = |random: &mut Random, n| {
        (0..n).map(|_| below(random, vocab + vocab / 8 + 1) as TokenId).collect::<Vec<_>>()
    };
    let (prompt, answer) = (tokens(random, n_tokens), tokens(random, n_tokens));
    if random.unit() > 0.4 {
        params.repetition_penalty = one_of(random, &[1.0, 1.3, 0.8]);
        params.presence_penalty = one_of(random, &[0.0, 0.5, -1.0]);
        params.frequency_penalty = one_of(random, &[0.0, 0.2, 1.5]);
        params.min_tokens = one_of(random, &[0, 20]);
        let biased = tokens(random, 3);
        params.logit_bias = biased.into_iter().map(|token| (token, 5.0 * random.unit())).collect();
        params.logit_bias.dedup_by_key(|(token, _)| *token);
    }
    Request { row: below(random, n_rows), params, prompt, answer, choice: below(random, 4) as u32 }
}

/// How a token compares with the processor's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Match {
    Same,
    /// The noise is where either may come.
    OnBoundary,
    Other,
}

fn compare(logits: &[f32], draw: &Draw<'_>, got: &Result<OutputToken>) -> Match {
    let mut sampler = Sampler::default();
    let (expected, got) = match (sampler.sample(logits, draw), got) {
        (Ok(expected), Ok(got)) => (expected, got),
        (Err(_), Err(_)) => return Match::Same,
        _ => return Match::Other,
    };
    // Equal ones may be infinite.
    let is_near = |a: f32, b: f32| a == b || (a - b).abs() <= 1e-4 + 1e-6 * a.abs();
    let is_same_top = expected.top_logprobs.len() == got.top_logprobs.len()
        && expected.top_logprobs.iter().zip(&got.top_logprobs).all(|(expected, got)| {
            expected.token == got.token && is_near(expected.logprob, got.logprob)
        });
    if !is_same_top || expected.logprob.is_some() != got.logprob.is_some() {
        return Match::Other;
    }
    if expected.token == got.token {
        let logprobs = expected.logprob.zip(got.logprob);
        let is_same = logprobs.is_none_or(|(expected, got)| is_near(expected, got));
        return if is_same { Match::Same } else { Match::Other };
    }
    // Tokens are drawn in their order: more noise never gives a lower token.
    let mut token_at = |noise: f64| {
        let noise = noise.clamp(0.0, 1.0 - f64::EPSILON);
        sampler.sample_with(logits, draw, noise).map_or(TokenId::MAX, |token| token.token)
    };
    let lowest = token_at(draw.noise() - NOISE_TOLERANCE);
    let highest = token_at(draw.noise() + NOISE_TOLERANCE);
    if (lowest..=highest).contains(&got.token) { Match::OnBoundary } else { Match::Other }
}

/// Compares a batch, on all processors; how many tokens lay on a boundary.
fn check_batch(rows: &Tensor, requests: &[Request], got: &[Result<OutputToken>]) -> usize {
    assert_eq!(requests.len(), got.len());
    let n_threads = thread::available_parallelism().map_or(1, usize::from);
    let share = requests.len().div_ceil(n_threads);
    let check = |(request, got): (&Request, &Result<OutputToken>)| {
        let outcome = compare(rows.row(request.row), &request.draw(), got);
        let expected = Sampler::default().sample(rows.row(request.row), &request.draw());
        assert_ne!(
            outcome,
            Match::Other,
            "row {}: {got:?}, not {expected:?}, with {:?} after {:?}",
            request.row,
            request.params,
            request.answer
        );
        usize::from(outcome == Match::OnBoundary)
    };
    thread::scope(|scope| {
        let parts = requests.chunks(share).zip(got.chunks(share));
        let threads: Vec<_> = parts
            .map(|(requests, got)| {
                scope.spawn(move || requests.iter().zip(got).map(check).sum::<usize>())
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("the same tokens")).sum()
    })
}

#[test]
fn cuda_tokens_are_those_of_the_processor() {
    let Some((device, cuda)) = gpu() else { return };
    let mut random = Random(11);
    for (vocab, n_draws) in [(1, 1000), (7, 4000), (1000, 10_000), (32_064, 4000), (152_064, 1024)]
    {
        let mut sampler = DeviceSampler::new(&cuda, BATCH, vocab).unwrap();
        let n_rows = if vocab > 10_000 { N_KINDS + 1 } else { BATCH };
        let mut n_on_boundary = 0;
        for _ in 0..n_draws / BATCH {
            let values: Vec<f32> = (0..n_rows)
                .flat_map(|row| logits(&mut random, row % (N_KINDS + 1), vocab))
                .collect();
            let rows = Tensor::from_slice(&[n_rows, vocab], &values);
            let requests: Vec<Request> =
                (0..BATCH).map(|_| random_request(&mut random, n_rows, vocab)).collect();
            cuda.poison_scratch().unwrap();
            let on_device = rows.to_device(&device).unwrap();
            let got = sample(&mut sampler, &on_device, &draws(&requests)).unwrap();
            n_on_boundary += check_batch(&rows, &requests, &got);
        }
        eprintln!("{vocab} tokens: {n_on_boundary} of {n_draws} draws on a boundary");
        assert!(n_on_boundary * 1000 <= n_draws, "{n_on_boundary} of {n_draws} on a boundary");
    }
}

#[test]
fn cuda_tokens_depend_on_nothing_beside_them() {
    let Some((device, cuda)) = gpu() else { return };
    let (mut random, vocab, n_rows) = (Random(12), 32_064, 24);
    let values: Vec<f32> =
        (0..n_rows).flat_map(|row| logits(&mut random, row % (N_KINDS + 1), vocab)).collect();
    let rows = Tensor::from_slice(&[n_rows, vocab], &values).to_device(&device).unwrap();
    let requests: Vec<Request> =
        (0..BATCH).map(|_| random_request(&mut random, n_rows, vocab)).collect();
    let mut sampler = DeviceSampler::new(&cuda, BATCH, vocab).unwrap();
    let mut sampled = |draws: &[(usize, Draw<'_>)]| {
        poison(&device);
        let tokens = sample(&mut sampler, &rows, draws).unwrap();
        tokens.into_iter().map(|token| format!("{token:?}")).collect::<Vec<_>>()
    };
    let mut draws = draws(&requests);
    let all = sampled(&draws);
    assert_eq!(sampled(&draws), all);
    for n in [1, 3, 40] {
        let parts: Vec<String> = draws.chunks(n).flat_map(&mut sampled).collect();
        assert_eq!(parts, all, "{n} at a time");
    }
    draws.reverse();
    let mut reversed = sampled(&draws);
    reversed.reverse();
    assert_eq!(reversed, all);
}

#[test]
fn cuda_refuses_what_is_not_finite_and_no_other_row() {
    let Some((device, cuda)) = gpu() else { return };
    let params =
        SamplingParams { temperature: 1.0, logprobs: Some(2), ..SamplingParams::default() };
    let draw = Draw { params: &params, prompt: &[], answer: &[], choice: 0, end_ids: &[3] };
    let waits = SamplingParams { min_tokens: 1, ..params.clone() };
    let masked = Draw { params: &waits, ..draw };
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let values = [
        [0.0, 1.0, 2.0, 3.0],
        [0.0, nan, 0.0, 0.0],
        [-inf; 4],
        [0.0, inf, 0.0, 0.0],
        [0.0, 1.0, 0.0, -nan],
    ];
    let rows = Tensor::from_slice(&[5, 4], values.as_flattened()).to_device(&device).unwrap();
    let mut sampler = DeviceSampler::new(&cuda, 8, 4).unwrap();
    let draws = [(0, draw), (1, draw), (2, draw), (3, draw), (4, draw), (4, masked), (0, draw)];
    let tokens = sample(&mut sampler, &rows, &draws).unwrap();
    let is_valid: Vec<bool> = tokens.iter().map(|token| token.is_ok()).collect();
    assert_eq!(is_valid, [true, false, false, false, false, true, true]);
    assert_eq!(tokens[0].as_ref().unwrap(), tokens[6].as_ref().unwrap());
    assert!(sample(&mut sampler, &rows, &[(5, draw)]).is_err());
    assert!(sample(&mut sampler, &rows, &[(0, draw); 9]).is_err());
    assert!(DeviceSampler::new(&cuda, 1, (1 << 18) + 1).is_err());
}

/// How often each token comes in `n_draws` places of one answer.
fn frequencies(cuda: &Arc<Cuda>, logits: &[f32], params: &SamplingParams, n: usize) -> Vec<usize> {
    let device = Device::Cuda(Arc::clone(cuda));
    let rows = Tensor::from_slice(&[1, logits.len()], logits).to_device(&device).unwrap();
    let mut sampler = DeviceSampler::new(cuda, 1000, logits.len()).unwrap();
    let answer = vec![TokenId::MAX; n];
    let at =
        |idx| (0, Draw { params, prompt: &[], answer: &answer[..idx], choice: 0, end_ids: &[] });
    let draws: Vec<_> = (0..n).map(at).collect();
    let mut counts = vec![0; logits.len()];
    for draws in draws.chunks(1000) {
        for token in sample(&mut sampler, &rows, draws).unwrap() {
            counts[token.unwrap().token as usize] += 1;
        }
    }
    counts
}

/// Chi-square of draws against `expected` stays under the 99.99 % quantile.
fn check_distribution(cuda: &Arc<Cuda>, logits: &[f32], expected: &[f64], params: &SamplingParams) {
    const N_DRAWS: usize = 20_000;
    let counts = frequencies(cuda, logits, params, N_DRAWS);
    let (mut chi_square, mut n_free) = (0.0, -1.0);
    for (&count, &share) in counts.iter().zip(expected) {
        let mean = share * N_DRAWS as f64;
        if share == 0.0 {
            assert_eq!(count, 0, "{params:?}");
        } else {
            chi_square += (count as f64 - mean).powi(2) / mean;
            n_free += 1.0;
        }
    }
    // Wilson and Hilferty's approximation of the quantile, z = 3.72.
    let spread = 2.0 / (9.0 * f64::max(n_free, 1.0));
    let quantile = n_free * (1.0 - spread + 3.72 * f64::sqrt(spread)).powi(3);
    assert!(chi_square <= quantile, "chi² {chi_square} over {quantile} with {params:?}");
}

#[test]
fn cuda_draws_follow_the_probabilities() {
    let Some((_, cuda)) = gpu() else { return };
    let shares = [0.3_f64, 0.1, 0.4, 0.2];
    let logits: Vec<f32> = shares.iter().map(|p| p.ln() as f32).collect();
    for seed in [0, u64::MAX] {
        let params = SamplingParams { temperature: 1.0, seed, ..SamplingParams::default() };
        check_distribution(&cuda, &logits, &shares, &params);
        let top_p = SamplingParams { top_p: 0.8, ..params.clone() };
        check_distribution(&cuda, &logits, &[0.3 / 0.9, 0.0, 0.4 / 0.9, 0.2 / 0.9], &top_p);
        let top_k = SamplingParams { top_k: 2, ..params.clone() };
        check_distribution(&cuda, &logits, &[0.3 / 0.7, 0.0, 0.4 / 0.7, 0.0], &top_k);
        check_distribution(&cuda, &[0.0; 1000], &[0.001; 1000], &params);
    }
}

/// A launch that is recorded for `n_rows` rows, and where it finds them.
struct Recorded {
    range: Arc<crate::SlabRange>,
    graph: crate::cuda::Graph,
}

impl Recorded {
    const ADJUSTMENTS: usize = 4096;

    fn new(cuda: &Cuda, sampler: &mut DeviceSampler, logits: &Tensor, n_rows: usize) -> Self {
        let mut pack = Pack::default();
        let parts = SampleBatch::default().pack_in(&mut pack, n_rows, Self::ADJUSTMENTS);
        let n_bytes = size_of_val(pack.words());
        let range = Arc::new(cuda.scratch(n_bytes).unwrap());
        cuda.upload(bytemuck::cast_slice(pack.words()), range.address()).unwrap();
        let rows = parts.unpack(&Packed::in_place(&range)).unwrap();
        sampler.launch(logits, &rows).unwrap();
        let graph = cuda.stream().capture(|| sampler.launch(logits, &rows)).unwrap();
        Self { range, graph }
    }

    fn upload(&self, cuda: &Cuda, batch: &SampleBatch, n_rows: usize) {
        let mut pack = Pack::default();
        batch.pack_in(&mut pack, n_rows, Self::ADJUSTMENTS);
        cuda.upload(bytemuck::cast_slice(pack.words()), self.range.address()).unwrap();
    }
}

#[test]
fn cuda_replays_of_a_recorded_launch_follow_what_is_uploaded() {
    let Some((device, cuda)) = gpu() else { return };
    let (mut random, vocab, n_rows) = (Random(13), 32_064, 12);
    let values: Vec<f32> = (0..n_rows).flat_map(|row| logits(&mut random, row, vocab)).collect();
    let rows = Tensor::from_slice(&[n_rows, vocab], &values);
    let on_device = rows.to_device(&device).unwrap();
    let mut sampler = DeviceSampler::new(&cuda, BATCH, vocab).unwrap();
    let recorded = Recorded::new(&cuda, &mut sampler, &on_device, BATCH);
    let mut under_way = Vec::new();
    for n in [BATCH, 1, 17] {
        let requests: Vec<Request> =
            (0..n).map(|_| random_request(&mut random, n_rows, vocab)).collect();
        let batch = sampler.prepare(&draws(&requests), n_rows).unwrap();
        assert!(batch.n_rows() == n && batch.n_adjustments() <= Recorded::ADJUSTMENTS);
        recorded.upload(&cuda, &batch, BATCH);
        recorded.graph.launch(cuda.stream()).unwrap();
        let tokens = sampler.tokens().to_host(&device).unwrap();
        under_way.push((sampler.fetch(n).unwrap(), requests, tokens));
        // One is read while the next is under way.
        if under_way.len() == 2 {
            let (sampled, requests, tokens) = under_way.remove(0);
            check_taken(&mut sampler, &rows, &sampled, (&requests, &tokens));
        }
    }
    let (sampled, requests, tokens) = under_way.remove(0);
    check_taken(&mut sampler, &rows, &sampled, (&requests, &tokens));
}

fn check_taken(
    sampler: &mut DeviceSampler,
    rows: &Tensor,
    sampled: &Sampled,
    (requests, tokens): (&[Request], &Tensor),
) {
    let got = sampler.take(sampled).unwrap();
    check_batch(rows, requests, &got);
    let on_device = tokens.as_slice::<u32>();
    let expected = got.iter().map(|token| token.as_ref().map_or(0, |token| token.token));
    assert!(expected.eq(on_device[..got.len()].iter().copied()));
    assert!(on_device[got.len()..].iter().all(|token| *token == 0));
}

/// Microseconds of a recorded launch for `n_rows` rows with these parameters.
fn launch_us(cuda: &Arc<Cuda>, logits: &Tensor, n_rows: usize, params: &SamplingParams) -> f32 {
    const N_LAUNCHES: usize = 50;
    let mut sampler = DeviceSampler::new(cuda, n_rows, logits.row_len()).unwrap();
    let recorded = Recorded::new(cuda, &mut sampler, logits, n_rows);
    let answer: Vec<TokenId> = (0..60).collect();
    let at = |idx| {
        (idx, Draw { params, prompt: &[], answer: &answer[..idx % 60], choice: 0, end_ids: &[] })
    };
    let draws: Vec<_> = (0..n_rows).map(at).collect();
    let batch = sampler.prepare(&draws, logits.n_rows()).unwrap();
    recorded.upload(cuda, &batch, n_rows);
    let event = || Event::new(cuda.context(), true).unwrap();
    let (start, end) = (event(), event());
    let give = |n| (0..n).for_each(|_| recorded.graph.launch(cuda.stream()).unwrap());
    give(N_LAUNCHES);
    cuda.stream().record(&start).unwrap();
    give(N_LAUNCHES);
    cuda.stream().record(&end).unwrap();
    end.synchronize().unwrap();
    end.ms_since(&start).unwrap() * 1000.0 / N_LAUNCHES as f32
}

#[test]
fn cuda_sampling_takes_microseconds() {
    let Some((device, cuda)) = gpu() else { return };
    let (mut random, vocab) = (Random(14), 152_064);
    let all = |kind, random: &mut Random| {
        let values: Vec<f32> = (0..64).flat_map(|_| logits(random, kind, vocab)).collect();
        Tensor::from_slice(&[64, vocab], &values).to_device(&device).unwrap()
    };
    let (peaked, flat) = (all(7, &mut random), all(0, &mut random));
    let greedy = SamplingParams::default();
    let draw = SamplingParams { temperature: 1.0, ..greedy.clone() };
    let cases = [
        ("greedy", greedy.clone()),
        ("greedy, 5 logprobs", SamplingParams { logprobs: Some(5), ..greedy.clone() }),
        ("temperature", draw.clone()),
        ("min-p", SamplingParams { min_p: 0.05, ..draw.clone() }),
        ("top-k", SamplingParams { top_k: 50, ..draw.clone() }),
        ("top-p", SamplingParams { top_p: 0.9, ..draw.clone() }),
        ("top-k, top-p", SamplingParams { top_k: 50, top_p: 0.9, ..draw.clone() }),
        ("penalties", SamplingParams { frequency_penalty: 0.5, ..draw }),
    ];
    eprintln!("microseconds of a launch, {vocab} tokens: peaked 1, 8, 64 rows; normal 1, 8, 64");
    for (name, params) in &cases {
        let times =
            [&peaked, &flat].map(|logits| [1, 8, 64].map(|n| launch_us(&cuda, logits, n, params)));
        eprintln!("{name:>20}: {:6.1?} {:6.1?}", times[0], times[1]);
        // Far above what is measured: only a fault takes this long.
        assert!(times.as_flattened().iter().all(|us| *us < 2000.0), "{name}: {times:?}");
    }
}
