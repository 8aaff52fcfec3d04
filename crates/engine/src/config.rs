//! What an engine is started with.

use crate::mock::MockModel;
use models::{Model, ModelSpec};
use scheduler::SchedulerConfig;
use std::num::NonZeroUsize;
use std::sync::Arc;
use tensor::{DType, Device, KvLayout};
use types::TokenId;

/// What computes.
pub enum Backend {
    /// A loaded model, and a lane of the device that its weights are on.
    Model(Arc<dyn Model>, Device),
    /// A pretence with set costs and tokens.
    Mock(Box<MockModel>),
}

impl Backend {
    /// Where it computes, and keeps what it computes.
    pub fn device(&self) -> Device {
        match self {
            Self::Model(_, device) => device.clone(),
            Self::Mock(_) => Device::cpu(NonZeroUsize::MIN),
        }
    }

    /// Shapes and limits of what computes.
    pub fn spec(&self) -> &ModelSpec {
        match self {
            Self::Model(model, _) => model.spec(),
            Self::Mock(mock) => &mock.spec,
        }
    }
}

/// Limits of one engine.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Sizes of the KV pool, of steps and of queues.
    pub scheduler: SchedulerConfig,
    /// Bytes of memory for embedding rows.
    pub embedding_bytes: usize,
    /// Tokens that end an answer unless a request ignores them.
    pub eos_token_ids: Vec<TokenId>,
    /// Element type of the KV cache.
    pub kv_dtype: DType,
    /// Numbers of sequences for which a GPU's decode steps are recorded, in any order; none turns
    /// recording off. The processor does not look at them.
    pub graph_batch_sizes: Vec<usize>,
    /// The lane of the model's device on which media are encoded, beside the steps; without one the
    /// engine takes another.
    pub tower: Option<Device>,
    /// Whether a step is planned and launched while the one before still runs.
    pub overlap: bool,
}

/// The numbers of sequences for which decode steps are recorded unless somebody says otherwise:
/// close enough to each other that filling up costs little.
pub fn usual_graph_batch_sizes(max_batch_size: usize) -> Vec<usize> {
    /// From here on sizes are this far apart.
    const STRIDE: usize = 8;
    let small = [1, 2, 4].into_iter();
    let large = (STRIDE..max_batch_size).step_by(STRIDE);
    let smaller = small.chain(large).filter(|&size| size < max_batch_size);
    smaller.chain([max_batch_size]).collect()
}

impl EngineConfig {
    /// The shape of a KV block for a model.
    pub(crate) fn kv_layout(&self, spec: &ModelSpec) -> KvLayout {
        KvLayout {
            block_size: self.scheduler.block_size,
            n_layers: spec.kv.n_layers,
            n_kv_heads: spec.kv.n_kv_heads,
            head_dim: spec.kv.head_dim,
            dtype: self.kv_dtype,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::usual_graph_batch_sizes;

    #[test]
    fn recorded_sizes_end_with_the_largest_batch() {
        assert_eq!(usual_graph_batch_sizes(1), [1]);
        assert_eq!(usual_graph_batch_sizes(5), [1, 2, 4, 5]);
        assert_eq!(usual_graph_batch_sizes(24), [1, 2, 4, 8, 16, 24]);
        assert_eq!(usual_graph_batch_sizes(30), [1, 2, 4, 8, 16, 24, 30]);
    }
}
