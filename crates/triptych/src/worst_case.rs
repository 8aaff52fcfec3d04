//! The most that a worker can ever be asked to compute at once, so that a GPU's working memory can
//! be grown to its largest before the rest is given away.
//!
//! Knows the limits of steps, not who computes or what memory is.

use media::{Image, Size};
use models::{MediaPlan, Model, PreparedMedia, Processor, SeqRows, Step, StepInput};
use std::sync::Arc;
use tensor::{Device, KvLayout, KvPool};
use types::media::MediaKind;
use types::{Result, TokenId};

/// Sides of the largest picture that is taken: more than any processor keeps.
const LARGEST_SIDE: u32 = 8192;
/// A request may ask for more pixels than the configuration: searched up to two to this power.
const PIXELS_LOG2_MAX: u32 = 26;
/// Rows of a sequence that attention still treats as few, which costs it most memory a row.
const FEW_ROWS: usize = 4;
/// Blocks of the pool that stands in: all sequences pretend to lie in the first.
const N_BLOCKS: usize = 1;

/// The limits of one engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StepLimits {
    /// Sequences of a step.
    pub(crate) max_batch_size: usize,
    /// Rows of a step.
    pub(crate) max_num_tokens: usize,
    /// Tokens of a sequence.
    pub(crate) max_seq_len: usize,
    /// Pictures of a run of the tower.
    pub(crate) max_pictures: usize,
    /// Patches of a run of the tower; a larger picture runs alone.
    pub(crate) max_patches: usize,
    /// Tokens of a KV block.
    pub(crate) block_size: usize,
}

/// A lane of a device with a model to be tried out.
pub(crate) struct Trial<'a> {
    pub(crate) device: &'a Device,
    pub(crate) model: &'a Arc<dyn Model>,
    pub(crate) limits: StepLimits,
}

impl Trial<'_> {
    /// Runs the tower on a full batch, and on the largest picture by itself.
    ///
    /// Errors: the device has not that much memory, or fails.
    pub(crate) fn encode(&self, processor: &dyn Processor) -> Result<()> {
        for plans in largest_batches(processor, &self.limits) {
            let media = grey(processor, &plans)?;
            let borrowed: Vec<&PreparedMedia> = media.iter().collect();
            if !borrowed.is_empty() {
                drop(self.model.encode(self.device, &borrowed)?);
            }
        }
        self.device.synchronize()
    }

    /// Runs steps of as many rows as there may be, at the end of the longest contexts.
    ///
    /// Errors: as [`Self::encode`].
    pub(crate) fn prefill(&self) -> Result<()> {
        let StepLimits { max_num_tokens, max_seq_len, max_batch_size, .. } = self.limits;
        let n_whole = (max_num_tokens / max_seq_len).min(max_batch_size);
        let mut rows = vec![max_seq_len; n_whole];
        let rest = max_num_tokens % max_seq_len;
        rows.extend((rest > 0 && n_whole < max_batch_size).then_some(rest));
        self.step(&rows)?;
        let n_few = FEW_ROWS.min(max_seq_len).min(max_num_tokens);
        self.step(&vec![n_few; max_batch_size.min(max_num_tokens / n_few)])
    }

    /// Runs a step with one row of as many sequences as there may be.
    ///
    /// Errors: as [`Self::encode`].
    pub(crate) fn decode(&self) -> Result<()> {
        self.step(&vec![1; self.limits.max_batch_size])
    }

    /// A step with so many rows of each sequence, all at the end of the longest context.
    fn step(&self, n_rows: &[usize]) -> Result<()> {
        let context = self.limits.max_seq_len;
        let table = vec![0; context.div_ceil(self.limits.block_size)];
        let seq =
            |&n_rows: &usize| SeqRows { n_rows, start_pos: context - n_rows, block_table: &table };
        let seqs: Vec<SeqRows<'_>> = n_rows.iter().map(seq).collect();
        let n: usize = n_rows.iter().sum();
        let tokens: Vec<TokenId> = vec![0; n];
        let of_seq = |seq: &SeqRows<'_>| (seq.start_pos..context).map(|pos| [pos as u32; 3]);
        let positions: Vec<[u32; 3]> = seqs.iter().flat_map(of_seq).collect();
        let n_logits = n.min(self.limits.max_batch_size);
        let logit_rows: Vec<usize> = (n - n_logits..n).collect();
        let input = StepInput {
            tokens: &tokens,
            positions: &positions,
            seqs: &seqs,
            embeddings: &[],
            logit_rows: &logit_rows,
        };
        let step = Step::new(self.device, self.model.spec(), &input)?;
        drop(self.model.forward(self.device, &step, &mut self.pool()?)?);
        self.device.synchronize()
    }

    fn pool(&self) -> Result<KvPool> {
        let kv = self.model.spec().kv;
        let layout = KvLayout {
            block_size: self.limits.block_size,
            n_layers: kv.n_layers,
            n_kv_heads: kv.n_kv_heads,
            head_dim: kv.head_dim,
            dtype: self.device.compute_dtype(),
        };
        KvPool::on(self.device, layout, N_BLOCKS)
    }
}

/// The runs of the tower that take most memory: as many patches as a run may have, and the largest
/// picture there can be; none where the model takes no pictures.
fn largest_batches(processor: &dyn Processor, limits: &StepLimits) -> Vec<Vec<MediaPlan>> {
    let Some(largest) = largest_picture(processor) else { return Vec::new() };
    let mut batch = Vec::new();
    let mut left = limits.max_patches;
    let mut side = LARGEST_SIDE;
    while side > 0 && batch.len() < limits.max_pictures {
        let plan = processor.plan(MediaKind::Image, square(side), "{}").ok();
        match plan.filter(|plan| plan.grid.n_patches() <= left) {
            Some(plan) if plan.grid.n_patches() > 0 => {
                left -= plan.grid.n_patches();
                batch.push(plan);
            }
            Some(_) | None => side /= 2,
        }
    }
    vec![batch, vec![largest]]
}

/// The plan with most patches that any request can bring about.
fn largest_picture(processor: &dyn Processor) -> Option<MediaPlan> {
    let plan = |options: &str| processor.plan(MediaKind::Image, square(LARGEST_SIDE), options).ok();
    let with_pixels = |n: u64| plan(&format!("{{\"max_pixels\": {n}}}"));
    // Below are counts that are too few, above those that are too many.
    let accepted = (0..=PIXELS_LOG2_MAX).rev().find(|&log2| with_pixels(1 << log2).is_some());
    let by_request = accepted.and_then(|log2| {
        let (mut most, mut too_many) = (1 << log2, 2 << log2);
        while too_many - most > 1 {
            let middle = most + (too_many - most) / 2;
            let end = if with_pixels(middle).is_some() { &mut most } else { &mut too_many };
            *end = middle;
        }
        with_pixels(most)
    });
    [plan("{}"), by_request].into_iter().flatten().max_by_key(|plan| plan.grid.n_patches())
}

fn square(side: u32) -> Size {
    Size { width: side, height: side }
}

/// Pictures of one colour that are seen as planned.
fn grey(processor: &dyn Processor, plans: &[MediaPlan]) -> Result<Vec<PreparedMedia>> {
    let dot = Image { width: 1, height: 1, rgb: vec![128; 3] };
    let mut media: Vec<PreparedMedia> = Vec::with_capacity(plans.len());
    for plan in plans {
        let same = media.iter().find(|medium| medium.plan == *plan).cloned();
        media.push(same.map_or_else(|| processor.prepare(&dot, plan, "{}"), Ok)?);
    }
    Ok(media)
}

#[cfg(test)]
mod tests {
    use super::*;
    use models::LoadFormat;
    use std::path::Path;

    fn demo() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/shapes")
    }

    const LIMITS: StepLimits = StepLimits {
        max_batch_size: 3,
        max_num_tokens: 70,
        max_seq_len: 50,
        max_pictures: 4,
        max_patches: 3000,
        block_size: 16,
    };

    #[test]
    fn the_largest_picture_is_the_largest_that_a_request_may_ask_for() {
        let processor = models::describe(&demo(), LoadFormat::Auto).unwrap().processor;
        let most = 28 * 28 * 16_384;
        let plan = largest_picture(&*processor).unwrap();
        let side = square(LARGEST_SIDE);
        let by_request = |pixels: u64| {
            processor.plan(MediaKind::Image, side, &format!("{{\"max_pixels\": {pixels}}}"))
        };
        assert_eq!(plan, by_request(most).unwrap());
        assert!(by_request(most + 1).is_err(), "the search ended too early");
    }

    #[test]
    fn a_batch_is_filled_up_to_its_limits() {
        let processor = models::describe(&demo(), LoadFormat::Auto).unwrap().processor;
        let batches = largest_batches(&*processor, &LIMITS);
        let patches = |plans: &Vec<MediaPlan>| -> usize {
            plans.iter().map(|plan| plan.grid.n_patches()).sum()
        };
        assert_eq!(batches.len(), 2);
        assert!(batches[0].len() > 1 && batches[0].len() <= LIMITS.max_pictures);
        assert!((2000..=3000).contains(&patches(&batches[0])), "{:?}", batches[0]);
        assert_eq!(batches[1].len(), 1);
    }

    #[test]
    fn the_worst_case_can_be_computed() {
        let device = Device::all_cpus();
        let model = models::load(&demo(), LoadFormat::Auto, &device).unwrap();
        let check = |limits| {
            let trial = Trial { device: &device, model: &model, limits };
            trial.prefill().unwrap();
            trial.decode().unwrap();
        };
        check(LIMITS);
        check(StepLimits { max_num_tokens: 3, ..LIMITS });
        check(StepLimits { max_num_tokens: 500, ..LIMITS });
        check(StepLimits { max_seq_len: 2, ..LIMITS });
    }
}
