//! Norms, and the choice of tokens.

use super::check::{distance, widened};
use super::timer;
use super::{Case, Sizes, Timed};
use crate::ceilings::{self, random_bf16};
use tensor::ops::sample::{DeviceSampler, Draw, Sampler};
use tensor::ops::{Pack, layer_norm, rms_norm};
use tensor::{Device, Tensor};
use types::output::OutputToken;
use types::sampling::SamplingParams;
use types::{Error, Result, TokenId};

/// Rows of steps.
const ROWS: &[usize] = &[1, 64, 256, 2048];
/// Rows of the tower.
const PATCHES: &[usize] = &[576, 5184];
/// Rows of logits.
const LOGIT_ROWS: &[usize] = &[1, 64, 256];
const EPSILON: f32 = 1e-6;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Norm {
    Rms,
    Layer,
}

pub(super) fn cases(sizes: &Sizes<'_>) -> Vec<Case> {
    let text = &sizes.shapes.text;
    let mut cases: Vec<Case> =
        ROWS.iter().map(|&n_rows| norm(Norm::Rms, (n_rows, text.width), sizes)).collect();
    if let Some(tower) = &sizes.shapes.tower {
        let rows = PATCHES.iter();
        cases.extend(rows.map(|&n_rows| norm(Norm::Layer, (n_rows, tower.width), sizes)));
    }
    cases.extend(LOGIT_ROWS.iter().map(|&n_rows| sampling((n_rows, text.vocab_size))));
    cases
}

fn norm(kind: Norm, (n_rows, width): (usize, usize), sizes: &Sizes<'_>) -> Case {
    let name = match kind {
        Norm::Rms => "rms_norm",
        Norm::Layer => "layer_norm",
    };
    let n_elements = (n_rows * width) as f64;
    Case {
        name: format!("{name} {n_rows}x{width}"),
        n_bytes: n_elements * (size_of::<f32>() as f64 + sizes.n_bytes),
        n_flop: 4.0 * n_elements,
        run: Box::new(move |device| run_norm(device, kind, (n_rows, width))),
    }
}

fn run_norm(device: &Device, kind: Norm, (n_rows, width): (usize, usize)) -> Result<Timed> {
    let values: Vec<f32> =
        random_bf16(n_rows * width, 17).into_iter().map(|value| value.to_f32()).collect();
    let x = Tensor::from_slice(&[n_rows, width], &values).to_device(device)?;
    let ones = Tensor::from_slice(&[width], &vec![1.0_f32; width]).to_device(device)?;
    let zeros = Tensor::zeros::<f32>(&[width]).to_device(device)?;
    let apply = || match kind {
        Norm::Rms => rms_norm(device, &x, &ones, EPSILON),
        Norm::Layer => layer_norm(device, &x, &ones, &zeros, EPSILON),
    };
    let found = widened(device, &apply()?)?;
    let rows = values.chunks(width).zip(found.chunks(width));
    let error = distance(rows.flat_map(|(x, found)| {
        let expected = normed(kind, x);
        expected.into_iter().zip(found.iter().copied())
    }));
    Ok(Timed { error, seconds: timer::seconds(device, 1, |_| apply().map(drop))? })
}

fn normed(kind: Norm, x: &[f32]) -> Vec<f64> {
    let n = x.len() as f64;
    let mean = match kind {
        Norm::Rms => 0.0,
        Norm::Layer => x.iter().map(|&value| f64::from(value)).sum::<f64>() / n,
    };
    let centred = x.iter().map(|&value| f64::from(value) - mean);
    let variance = centred.clone().map(|value| value * value).sum::<f64>() / n;
    let scale = 1.0 / (variance + f64::from(EPSILON)).sqrt();
    centred.map(|value| value * scale).collect()
}

fn sampling((n_rows, vocab): (usize, usize)) -> Case {
    Case {
        name: format!("greedy sampling {n_rows}x{vocab}"),
        n_bytes: (n_rows * vocab * size_of::<f32>()) as f64,
        n_flop: 0.0,
        run: Box::new(move |device| run_sampling(device, (n_rows, vocab))),
    }
}

/// With the wait for the tokens, which a step has too.
fn run_sampling(device: &Device, (n_rows, vocab): (usize, usize)) -> Result<Timed> {
    let mut values: Vec<f32> =
        random_bf16(n_rows * vocab, 19).into_iter().map(|value| value.to_f32()).collect();
    let best: Vec<usize> = (0..n_rows).map(|row| row * 7919 % vocab).collect();
    best.iter().enumerate().for_each(|(row, &token)| values[row * vocab + token] = 2.0);
    let logits = Tensor::from_slice(&[n_rows, vocab], &values).to_device(device)?;
    let params = SamplingParams::default();
    let draw = Draw { params: &params, prompt: &[], answer: &[], choice: 0, end_ids: &[] };
    let draws: Vec<(usize, Draw<'_>)> = (0..n_rows).map(|row| (row, draw)).collect();
    let mut sampler = RowSampler::new(device, n_rows, vocab)?;
    let tokens = sampler.sample(device, &logits, &draws)?;
    let tokens: Vec<TokenId> =
        tokens.into_iter().map(|token| Ok(token?.token)).collect::<Result<_>>()?;
    if tokens.iter().zip(&best).any(|(&token, &best)| token as usize != best) {
        return Err(Error::internal("greedy sampling does not take the largest logit"));
    }
    let seconds = ceilings::seconds(device, || sampler.sample(device, &logits, &draws).map(drop))?;
    Ok(Timed { error: 0.0, seconds })
}

/// What a device samples with.
enum RowSampler {
    Host(Sampler),
    Gpu(Box<DeviceSampler>),
}

impl RowSampler {
    fn new(device: &Device, n_rows: usize, vocab: usize) -> Result<Self> {
        Ok(match device {
            Device::Cpu(_) => Self::Host(Sampler::default()),
            Device::Cuda(cuda) => Self::Gpu(Box::new(DeviceSampler::new(cuda, n_rows, vocab)?)),
        })
    }

    fn sample(
        &mut self,
        device: &Device,
        logits: &Tensor,
        draws: &[(usize, Draw<'_>)],
    ) -> Result<Vec<Result<OutputToken>>> {
        let sampler = match self {
            Self::Host(sampler) => {
                let one = |(row, draw): &(usize, _)| sampler.sample(logits.row(*row), draw);
                return Ok(draws.iter().map(one).collect());
            }
            Self::Gpu(sampler) => sampler,
        };
        let batch = sampler.prepare(draws, logits.n_rows())?;
        let mut pack = Pack::default();
        let parts = batch.pack(&mut pack);
        let rows = parts.unpack(&pack.to_device(device)?)?;
        sampler.launch(logits, &rows)?;
        let sampled = sampler.fetch(batch.n_rows())?;
        sampler.take(&sampled)
    }
}
