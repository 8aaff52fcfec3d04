//! What the sampling kernel must know of each row besides its logits, in the kernel's layout
//! (crates/kernels/cu/sample.cu), and how it is made from draws. Knows nothing of devices.

use super::super::misuse;
use super::super::pack::{Pack, Packed, Part};
use super::{Draw, NOISE_BITS, TEMPERATURE_MIN};
use crate::tensor::Tensor;
use bytemuck::{Pod, Zeroable};
use types::sampling::SamplingParams;
use types::{Result, TokenId};

const IS_ACTIVE: u32 = 1;
const IS_GREEDY: u32 = 2;
const WANTS_LOGPROBS: u32 = 4;

/// Most alternatives that are reported of a token.
pub(super) const TOP_MAX: usize = 20;
/// Weights are equal above this temperature, and quotients must not underflow.
const TEMPERATURE_MAX: f32 = 1e30;

/// Words of a [`RowRecord`] and of an [`Adjustment`].
const ROW_WORDS: usize = size_of::<RowRecord>() / size_of::<u32>();
const ADJUSTMENT_WORDS: usize = size_of::<Adjustment>() / size_of::<u32>();

/// A row, as the kernel reads it. All zeros is a row that stands in for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct RowRecord {
    logits_row: u32,
    flags: u32,
    temperature: f32,
    min_p: f32,
    /// 0 keeps all.
    top_k: u32,
    /// 1 keeps all.
    top_p: f32,
    /// In [0, 1), times 2^64: low word, high word.
    noise: [u32; 2],
    first_adjustment: u32,
    n_adjustments: u32,
    n_top: u32,
    unused: u32,
}

/// A change of one token's logit, in the order of the fields: a repetition penalty unless 1, what
/// is subtracted, what is added; adding minus infinity forbids the token.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Adjustment {
    token: TokenId,
    repetition: f32,
    subtract: f32,
    add: f32,
}

/// The rows that one launch samples, on the host.
#[derive(Debug, Default)]
pub struct SampleBatch {
    rows: Vec<RowRecord>,
    adjustments: Vec<Adjustment>,
}

/// A [`SampleBatch`] in a pack.
#[derive(Debug, Clone)]
pub struct SampleParts {
    rows: Part,
    adjustments: Part,
    n_rows: usize,
    n_adjustments: usize,
}

/// A [`SampleBatch`] on a device.
#[derive(Debug)]
pub struct SampleRows {
    /// u32 `[n_rows, _]`.
    pub(super) rows: Tensor,
    /// u32 `[n_adjustments, _]`.
    pub(super) adjustments: Tensor,
}

impl SampleBatch {
    /// How many rows are sampled.
    pub fn n_rows(&self) -> usize {
        self.rows.len()
    }

    /// How many logits are changed by penalties, bias and `min_tokens`.
    pub fn n_adjustments(&self) -> usize {
        self.adjustments.len()
    }

    /// Adds all to a pack.
    pub fn pack(&self, pack: &mut Pack) -> SampleParts {
        self.pack_in(pack, self.n_rows(), self.n_adjustments())
    }

    /// Adds all to a pack in the place of `n_rows` rows and `n_adjustments` changed logits, of
    /// which there are no more: so a recorded step finds them where it looks. Rows beyond stand in
    /// for nothing.
    pub fn pack_in(&self, pack: &mut Pack, n_rows: usize, n_adjustments: usize) -> SampleParts {
        let rows = bytemuck::cast_slice(&self.rows).iter().copied();
        let changes = bytemuck::cast_slice(&self.adjustments).iter().copied();
        SampleParts {
            rows: pack.add_padded(rows, n_rows * ROW_WORDS, 0),
            adjustments: pack.add_padded(changes, n_adjustments * ADJUSTMENT_WORDS, 0),
            n_rows,
            n_adjustments,
        }
    }
}

impl SampleParts {
    /// The rows of a pack that is on its device.
    ///
    /// Errors: it is another pack.
    pub fn unpack(&self, packed: &Packed) -> Result<SampleRows> {
        Ok(SampleRows {
            rows: packed.tensor(&self.rows, &[self.n_rows, ROW_WORDS])?,
            adjustments: packed
                .tensor(&self.adjustments, &[self.n_adjustments, ADJUSTMENT_WORDS])?,
        })
    }
}

/// Makes batches; its memory is kept from step to step.
#[derive(Debug)]
pub(super) struct BatchMaker {
    /// For each token, its place in the row's list of adjustments, from 1 on; 0: none. `[vocab]`
    places: Vec<u32>,
}

impl BatchMaker {
    pub(super) fn new(vocab: usize) -> Self {
        Self { places: vec![0; vocab] }
    }

    /// The batch of `draws`, each with its row among `n_logits_rows`.
    ///
    /// Errors: a row outside the logits.
    pub(super) fn batch(
        &mut self,
        draws: &[(usize, Draw<'_>)],
        n_logits_rows: usize,
    ) -> Result<SampleBatch> {
        let mut batch = SampleBatch::default();
        for (logits_row, draw) in draws {
            if *logits_row >= n_logits_rows {
                return Err(misuse("sample", "a row outside the logits"));
            }
            let first = batch.adjustments.len();
            RowChanges { places: &mut self.places, list: &mut batch.adjustments, first }.of(draw);
            let adjustments = [first, batch.adjustments.len() - first].map(|n| n as u32);
            batch.rows.push(record(*logits_row as u32, draw, adjustments));
        }
        Ok(batch)
    }
}

fn record(
    logits_row: u32,
    draw: &Draw<'_>,
    [first_adjustment, n_adjustments]: [u32; 2],
) -> RowRecord {
    let params = draw.params;
    let is_greedy = params.temperature < TEMPERATURE_MIN;
    let noise = draw.noise_bits() << (u64::BITS - NOISE_BITS);
    let (min_p, top_k, top_p) = truncation(params);
    RowRecord {
        logits_row,
        flags: IS_ACTIVE
            | if is_greedy { IS_GREEDY } else { 0 }
            | if params.logprobs.is_some() { WANTS_LOGPROBS } else { 0 },
        temperature: params.temperature.min(TEMPERATURE_MAX),
        min_p,
        top_k,
        top_p,
        noise: [noise as u32, (noise >> 32) as u32],
        first_adjustment,
        n_adjustments,
        n_top: params.logprobs.map_or(0, |n| n.min(TOP_MAX as u32)),
        unused: 0,
    }
}

/// Min-p, top-k and top-p; a min-p that no token reaches truncates nothing.
fn truncation(params: &SamplingParams) -> (f32, u32, f32) {
    if params.min_p > 1.0 { (0.0, 0, 1.0) } else { (params.min_p, params.top_k, params.top_p) }
}

/// The adjustments of one row, a token at most once: those of `list` from `first` on.
struct RowChanges<'a> {
    places: &'a mut [u32],
    list: &'a mut Vec<Adjustment>,
    first: usize,
}

impl RowChanges<'_> {
    fn of(mut self, draw: &Draw<'_>) {
        self.penalise(draw);
        for &(token, bias) in &draw.params.logit_bias {
            self.change(token, |change| change.add += bias);
        }
        if draw.answer.len() < draw.params.min_tokens as usize {
            for &token in draw.end_ids {
                self.change(token, |change| change.add = f32::NEG_INFINITY);
            }
        }
        for change in &self.list[self.first..] {
            self.places[change.token as usize] = 0;
        }
    }

    fn penalise(&mut self, draw: &Draw<'_>) {
        let params = draw.params;
        if params.presence_penalty != 0.0 || params.frequency_penalty != 0.0 {
            // First how often each token came, then what that costs.
            for &token in draw.answer {
                self.change(token, |change| change.subtract += 1.0);
            }
            for change in &mut self.list[self.first..] {
                let count = change.subtract;
                change.subtract = params.presence_penalty + params.frequency_penalty * count;
            }
        }
        if params.repetition_penalty != 1.0 {
            for &token in draw.prompt.iter().chain(draw.answer) {
                self.change(token, |change| change.repetition = params.repetition_penalty);
            }
        }
    }

    /// Changes the adjustment of a token; tokens that do not exist have none.
    fn change(&mut self, token: TokenId, change: impl FnOnce(&mut Adjustment)) {
        let Some(place) = self.places.get_mut(token as usize) else { return };
        if *place == 0 {
            self.list.push(Adjustment { token, repetition: 1.0, subtract: 0.0, add: 0.0 });
            *place = (self.list.len() - self.first) as u32;
        }
        change(&mut self.list[self.first + *place as usize - 1]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjustments_name_a_token_once_and_leave_no_trace() {
        let params = SamplingParams {
            repetition_penalty: 2.0,
            presence_penalty: 0.5,
            frequency_penalty: 0.25,
            logit_bias: vec![(1, 3.0), (9, 1.0)],
            min_tokens: 3,
            ..SamplingParams::default()
        };
        let (prompt, answer) = ([0, 1, 99], [1, 1]);
        let draw =
            Draw { params: &params, prompt: &prompt, answer: &answer, choice: 0, end_ids: &[2] };
        let mut maker = BatchMaker::new(4);
        for _ in 0..2 {
            let batch = maker.batch(&[(0, draw), (0, draw)], 1).unwrap();
            assert_eq!(batch.rows[1].first_adjustment, 3);
            let mut list = batch.adjustments[3..].to_vec();
            list.sort_by_key(|change| change.token);
            let change =
                |token, repetition, subtract, add| Adjustment { token, repetition, subtract, add };
            let expected = [
                change(0, 2.0, 0.0, 0.0),
                change(1, 2.0, 1.0, 3.0),
                change(2, 1.0, 0.0, f32::NEG_INFINITY),
            ];
            assert_eq!(list, expected);
        }
        assert!(maker.places.iter().all(|place| *place == 0));
        assert!(maker.batch(&[(1, draw)], 1).is_err());
    }
}
