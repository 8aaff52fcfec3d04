//! Whether a GPU answers as the processor does: only for models that the processor can run soon.

use crate::measure::{Agreement, Questions};
use crate::rig::{Ask, Rig, Sizes, Stepping};
use crate::target::Target;
use models::Description;
use tensor::Device;
use types::{Error, Result};

/// Weights of models that are run on the processor too.
const WEIGHT_BYTES_MAX: usize = 256 << 20;
/// Lengths of the prompts that both answer, their answers, and the side of a picture.
const PROMPT_LENS: &[usize] = &[1, 7, 33, 100];
const ANSWER_LEN: u32 = 16;
const PICTURE_SIDE: u32 = 112;
/// Sizes that hold all of that.
pub(crate) const N_TOKENS_MAX: usize = 2048;
pub(crate) const N_BLOCKS: usize = 512;
const SEQS_MAX: usize = 8;
/// Rounding may turn a close decision, after which an answer goes its own way. A kernel that is
/// wrong answers nothing as the processor does.
const SHARE_MIN: f64 = 0.5;

/// Compares, where the model is small and the device a GPU.
///
/// Errors: the answers are others; a request failed.
pub(crate) fn with_cpu(
    target: &Target,
    rig: &Rig,
    description: &Description,
) -> Result<Option<Agreement>> {
    let is_gpu = matches!(target.device, Device::Cuda(_));
    if !is_gpu || target.shapes.weight_bytes() > WEIGHT_BYTES_MAX {
        return Ok(None);
    }
    let cpu = Device::all_cpus();
    let sizes = Sizes {
        max_num_tokens: N_TOKENS_MAX,
        max_batch_size: SEQS_MAX,
        n_blocks: N_BLOCKS,
        n_embedding_rows: N_TOKENS_MAX,
    };
    let model = target.load(&cpu)?;
    let other = Rig::start((&model, &cpu), description.clone(), sizes, Stepping::Usual)?;
    let questions = Questions { spec: &description.spec };
    let texts: Vec<Ask> =
        PROMPT_LENS.iter().flat_map(|&len| questions.texts(1, len, ANSWER_LEN)).collect();
    let mut agreement = Agreement::default();
    agreement.add(&other.at_once(&texts)?.answers, &rig.at_once(&texts)?.answers);
    if rig.plan(PICTURE_SIDE).is_ok() {
        let pictures = questions.pictures(1, PICTURE_SIDE, ANSWER_LEN)?;
        let expected = other.with_pictures(&pictures)?.answers;
        agreement.add(&expected, &rig.with_pictures(&pictures)?.answers);
    }
    if (agreement.n_same as f64) < SHARE_MIN * agreement.n as f64 {
        let Agreement { n_same, n } = agreement;
        let words = format!("only {n_same} of {n} tokens are those that the processor gives");
        return Err(Error::internal(words));
    }
    Ok(Some(agreement))
}
