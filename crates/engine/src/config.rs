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
    Mock(MockModel),
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
