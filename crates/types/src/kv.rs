//! How KV blocks are laid out, as workers tell each other.

/// Shape of a KV block, `[kv_head][layer][K|V][token][dim]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvLayout {
    /// Tokens of a block.
    pub block_size: u32,
    /// Layers.
    pub n_layers: u32,
    /// Heads of K and V.
    pub n_kv_heads: u32,
    /// Elements of a head.
    pub head_dim: u32,
    /// Element type.
    pub dtype: String,
}
