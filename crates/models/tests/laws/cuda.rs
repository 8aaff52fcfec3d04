//! A GPU computes what the processor computes: in f32 almost to the digit, in 16 bits as nearly as
//! they allow; and a prompt may be cut there as well.
//!
//! Where there is no GPU these say so and pass; `TRIPTYCH_REQUIRE_CUDA=1` makes that a failure.

use crate::ZOO;
use crate::golden::Golden;
use crate::sequence::{Loaded, Prompt, table_for};
use tensor::cuda::CudaOptions;
use tensor::{DType, Device, KvPool, Tensor};
use types::TokenId;

/// How far a GPU may be from the processor.
#[derive(Clone, Copy)]
struct Tolerance {
    compute: DType,
    /// Norm of the difference by the norm of what is expected.
    norm: f64,
    /// Another token is chosen only where the processor's best two logits are this near to each
    /// other, relative to the largest.
    tie: f32,
}

const EXACT: Tolerance = Tolerance { compute: DType::F32, norm: 1e-4, tie: 0.0 };
const ROUNDED: Tolerance = Tolerance { compute: DType::Bf16, norm: 3e-2, tie: 6e-2 };
const HALVED: Tolerance = Tolerance { compute: DType::F16, norm: 1e-2, tie: 2e-2 };

/// Rows of the chunks into which prompts are cut: few and many, and none a multiple of a tile.
const CHUNKS: [usize; 4] = [1, 3, 7, 33];

#[test]
fn cuda_in_f32_is_the_processor() {
    each_prompt(EXACT, compare);
}

#[test]
fn cuda_in_bf16_is_near_the_processor() {
    each_prompt(ROUNDED, compare);
}

#[test]
fn cuda_in_f16_is_near_the_processor() {
    each_prompt(HALVED, compare);
}

#[test]
fn cuda_in_f32_takes_a_prompt_in_chunks() {
    each_prompt(EXACT, in_chunks);
}

#[test]
fn cuda_in_bf16_takes_a_prompt_in_chunks() {
    each_prompt(ROUNDED, in_chunks);
}

/// A checkpoint on both devices.
struct Both {
    host: Loaded,
    gpu: Loaded,
    n_steps: usize,
}

fn each_prompt(tolerance: Tolerance, check: impl Fn(&Both, &serde_json::Value, (Tolerance, &str))) {
    let compute = tolerance.compute;
    let options = CudaOptions { ordinal: 0, compute, deterministic: false };
    let Some(device) = tensor::testing::gpu(options) else { return };
    for (family, index) in ZOO {
        let golden = Golden::read(family, index);
        let both = Both {
            host: Loaded::open(&golden, &Device::all_cpus()),
            gpu: Loaded::open(&golden, &device),
            n_steps: golden.index["n_steps"].as_u64().unwrap() as usize,
        };
        assert!(!golden.prompts().is_empty());
        for prompt in golden.prompts() {
            let name = format!("{family}/{index}: {}", prompt["name"].as_str().unwrap());
            check(&both, prompt, (tolerance, &name));
        }
    }
}

/// Encoder rows, all logits of the prompt, and the tokens behind it.
fn compare(both: &Both, prompt: &serde_json::Value, (tolerance, name): (Tolerance, &str)) {
    let [host, gpu] = [&both.host, &both.gpu].map(|loaded| loaded.prompt(prompt));
    if !host.prepared.is_empty() {
        let [expected, got] = [(&both.host, &host), (&both.gpu, &gpu)].map(rows);
        assert_near(got.as_f32(), expected.as_f32(), tolerance, &format!("{name}, rows"));
    }
    let table = table_for(host.len() + both.n_steps);
    let mut pools = [&both.host, &both.gpu].map(|loaded| loaded.pool(table.len()));
    let [host_pool, gpu_pool] = &mut pools;
    let expected = whole(&both.host, &host, (host_pool, &table));
    let got = whole(&both.gpu, &gpu, (gpu_pool, &table));
    assert_near(got.as_f32(), expected.as_f32(), tolerance, &format!("{name}, logits"));
    let last = host.len() - 1;
    let n = both.n_steps;
    let expected = both.host.greedy(&host, expected.row(last), n, (host_pool, &table));
    let got = both.gpu.greedy(&gpu, got.row(last), n, (gpu_pool, &table));
    assert_same_tokens(&got, &expected, tolerance, name);
}

/// The same prompt whole and in chunks, both on the GPU.
fn in_chunks(both: &Both, prompt: &serde_json::Value, (tolerance, name): (Tolerance, &str)) {
    let loaded = &both.gpu;
    let prompt = loaded.prompt(prompt);
    let table = table_for(prompt.len() + both.n_steps);
    let mut kv = loaded.pool(table.len());
    let expected = whole(loaded, &prompt, (&mut kv, &table));
    let last = expected.row(prompt.len() - 1);
    let answer = loaded.greedy(&prompt, last, both.n_steps, (&mut kv, &table));
    for chunk in CHUNKS.into_iter().filter(|&chunk| chunk < prompt.len()) {
        let name = format!("{name}, chunks of {chunk}");
        let mut kv = loaded.pool(table.len());
        let mut logits = Vec::new();
        for start in (0..prompt.len()).step_by(chunk) {
            let span = (start, prompt.len().min(start + chunk));
            let tokens = &prompt.expanded.tokens;
            let part = loaded.run((&prompt, tokens), span, (&mut kv, &table));
            logits.extend_from_slice(part.as_f32());
        }
        assert_near(&logits, expected.as_f32(), tolerance, &name);
        let last = &logits[logits.len() - expected.row_len()..];
        let again = loaded.greedy(&prompt, last, both.n_steps, (&mut kv, &table));
        assert_same_tokens(&again, &answer, tolerance, &name);
    }
}

/// The encoder's rows of a prompt, in host memory.
fn rows((loaded, prompt): (&Loaded, &Prompt)) -> Tensor {
    let media: Vec<_> = prompt.prepared.iter().collect();
    loaded.encode(&media).to_host(&loaded.device).unwrap()
}

fn whole(loaded: &Loaded, prompt: &Prompt, (kv, table): (&mut KvPool, &[u32])) -> Tensor {
    loaded.run((prompt, &prompt.expanded.tokens), (0, prompt.len()), (kv, table))
}

fn assert_near(got: &[f32], expected: &[f32], tolerance: Tolerance, what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let pairs = got.iter().zip(expected);
    let wrong = norm(&mut pairs.map(|(got, expected)| f64::from(*got) - f64::from(*expected)));
    let right = norm(&mut expected.iter().map(|value| f64::from(*value)));
    let is_near = wrong <= tolerance.norm * right;
    let dtype = tolerance.compute.name();
    assert!(is_near, "{what} in {dtype}: off by {wrong}, which is {} of it", wrong / right);
}

/// Greedy tokens and the logits that each was chosen from.
type Answer = (Vec<TokenId>, Vec<Vec<f32>>);

/// Equal up to a near tie; what follows another token may be anything.
fn assert_same_tokens(got: &Answer, expected: &Answer, tolerance: Tolerance, what: &str) {
    assert_eq!(got.0.len(), expected.0.len(), "{what}");
    let other = (0..got.0.len()).find(|&idx| got.0[idx] != expected.0[idx]);
    let Some(idx) = other else { return };
    let logits = &expected.1[idx];
    let [ours, theirs] = [got, expected].map(|answer| logits[answer.0[idx] as usize]);
    let largest = logits.iter().fold(0.0_f32, |most, logit| most.max(logit.abs()));
    let is_tie = theirs - ours <= tolerance.tie * largest;
    assert!(is_tie, "{what}: token {idx} is {}, not {}", got.0[idx], expected.0[idx]);
}
