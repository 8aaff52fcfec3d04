//! Steps on a GPU: recorded or not, planned ahead or not, beside the tower or not, the answers are
//! the same, and in f32 they are the processor's.
//!
//! Where there is no GPU these say so and pass; `TRIPTYCH_REQUIRE_CUDA=1` makes that a failure.

use crate::laws::varied;
use crate::rig::{Answer, Ask, Part, Rig, Setup, ask, golden, golden_on, picture, text};
use engine::Until;
use models::Model;
use std::sync::Arc;
use tensor::cuda::CudaOptions;
use tensor::{DType, Device};
use types::sampling::SamplingParams;

/// Recorded sizes, some of which no number of requests here fills.
const SIZES: &[usize] = &[1, 2, 4, 8, 16];
/// How far log probabilities may be from each other.
const LOGPROB_DISTANCE_MAX: f32 = 1e-3;

/// A GPU that gives the same bits whatever else it computes, and the checkpoint on it; none where
/// there is no GPU.
fn gpu() -> Option<(Device, Arc<dyn Model>)> {
    let options = CudaOptions { ordinal: 0, compute: DType::F32, deterministic: true };
    let device = tensor::testing::gpu(options)?;
    let model = golden_on(&device);
    Some((device, model))
}

/// What nobody has written is NaN from now on. The engine must be idle.
fn poison(device: &Device) {
    if let Device::Cuda(cuda) = device {
        cuda.poison_scratch().expect("the device works");
        device.synchronize().expect("the device works");
    }
}

fn check_same(found: &[Answer], expected: &[Answer], what: &str) {
    for (idx, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found.failed, None, "{what}, request {idx}");
        assert_eq!(found.all_tokens(), expected.all_tokens(), "{what}, request {idx}");
        assert_eq!(found.reasons, expected.reasons, "{what}, request {idx}");
        let tokens = |answer: &Answer| answer.choices.concat();
        for (found, expected) in tokens(found).iter().zip(&tokens(expected)) {
            let (found, expected) = (found.logprob, expected.logprob);
            let is_near = match (found, expected) {
                (Some(found), Some(expected)) => (found - expected).abs() < LOGPROB_DISTANCE_MAX,
                (found, expected) => found == expected,
            };
            assert!(is_near, "{what}, request {idx}: {found:?}, not {expected:?}");
        }
    }
}

/// Greedy requests, of which some show pictures.
fn greedy(model: &Arc<dyn Model>, n: usize) -> Vec<Ask> {
    let one = |idx: u32| {
        let shown = Part::Picture(picture(u64::from(idx % 4), 4, 6));
        let parts = vec![text(idx, 4 + idx as usize % 5), shown, text(idx + 1, 3)];
        let parts = if idx.is_multiple_of(3) { vec![text(idx, 9)] } else { parts };
        let mut ask = ask(model, parts, 12);
        ask.sampling.logprobs = Some(2);
        ask
    };
    (0..n as u32).map(one).collect()
}

/// The answers of each request alone, with steps as they are.
fn alone(device: &Device, model: &Arc<dyn Model>, asks: &[Ask]) -> Vec<Answer> {
    let rig = Rig::on(device, model, Setup { reuse_blocks: false, ..Setup::default() });
    asks.iter().map(|ask| rig.ask(ask)).collect()
}

#[test]
fn cuda_in_f32_answers_as_the_processor() {
    let Some((device, model)) = gpu() else { return };
    let asks = greedy(&model, 8);
    let expected = alone(&Device::all_cpus(), &golden(), &asks);
    check_same(&alone(&device, &model, &asks), &expected, "as it is");
    for setup in (Setup { graph_batch_sizes: SIZES, ..Setup::default() }).both_ways() {
        let rig = Rig::on(&device, &model, setup);
        check_same(&rig.ask_all(&asks), &expected, "together");
        rig.wait_until_empty();
    }
}

#[test]
fn cuda_recorded_steps_answer_as_they_are() {
    let Some((device, model)) = gpu() else { return };
    let asks = greedy(&model, 16);
    let expected = alone(&device, &model, &asks);
    for setup in (Setup { graph_batch_sizes: SIZES, ..Setup::default() }).both_ways() {
        let rig = Rig::on(&device, &model, setup);
        for n in 1..=asks.len() {
            poison(&device);
            let what = format!("{n} together, overlap {}", setup.overlap);
            check_same(&rig.ask_all(&asks[..n]), &expected[..n], &what);
            rig.wait_until_empty();
        }
    }
}

#[test]
fn cuda_random_answers_depend_on_nothing_beside_them() {
    let Some((device, model)) = gpu() else { return };
    let mut asks = varied(&model, 12);
    // What needs the tokens of the step before, and what ends by itself.
    asks[1].sampling.repetition_penalty = 1.4;
    asks[4].sampling.frequency_penalty = 0.7;
    asks[7].sampling =
        SamplingParams { ignore_eos: false, min_tokens: 2, ..asks[7].sampling.clone() };
    asks[8].sampling.stop_token_ids = (0..40).collect();
    asks[9].sampling.logit_bias = (0..30).map(|token| (token, -2.0)).collect();
    let expected = alone(&device, &model, &asks);
    let sizes: [&[usize]; 2] = [&[], SIZES];
    for (graph_batch_sizes, n_blocks) in sizes.into_iter().flat_map(|s| [(s, 256), (s, 12)]) {
        let setup = Setup { graph_batch_sizes, n_blocks, ..Setup::default() };
        for setup in setup.both_ways() {
            let rig = Rig::on(&device, &model, setup);
            let Setup { overlap, .. } = setup;
            let what = format!("{graph_batch_sizes:?}, {n_blocks} blocks, overlap {overlap}");
            check_same(&rig.ask_all(&asks), &expected, &what);
            check_same(&rig.ask_all(&asks), &expected, &format!("{what}, again"));
            rig.wait_until_empty();
        }
    }
}

#[test]
fn cuda_more_choices_than_the_sampler_takes_come_in_turns() {
    let Some((device, model)) = gpu() else { return };
    let mut ask = ask(&model, vec![text(3, 9)], 1);
    ask.until = Until::FirstToken;
    ask.sampling = SamplingParams { temperature: 1.0, n: 9, seed: 4, ..ask.sampling };
    let first_tokens = |max_batch_size| {
        let rig = Rig::on(&device, &model, Setup { max_batch_size, ..Setup::default() });
        rig.ask(&ask).all_tokens()
    };
    assert_eq!(first_tokens(1), first_tokens(16));
}

/// A picture is encoded on a lane of its own while others get their tokens.
#[test]
fn cuda_pictures_beside_steps_leave_nothing_behind() {
    let Some((device, model)) = gpu() else { return };
    for setup in (Setup { graph_batch_sizes: SIZES, ..Setup::default() }).both_ways() {
        let rig = Rig::on(&device, &model, setup);
        let asks = greedy(&model, 12);
        let expected = alone(&device, &model, &asks);
        for _ in 0..3 {
            check_same(&rig.ask_all(&asks), &expected, "pictures beside steps");
        }
        rig.wait_until_empty();
        assert!(rig.engine.stats().n_encoded_items > 0);
    }
}
