//! Identity of content: digests of media, and the keys of cached KV blocks.
//!
//! The one definition used by the encoder cache, the prefix cache and the router.
//! Everything that changes a result goes into its digest, every field preceded by its length, so
//! that no two different inputs share a serialisation. All keys are 256 bits wide.

use crate::TokenId;
use crate::prompt::PlacedItem;
use std::fmt;

/// A BLAKE3-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Digest(pub [u8; 32]);

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Hashes named fields in a canonical serialisation: scheme tag first, every field with its length.
pub struct CanonicalHasher(blake3::Hasher);

impl CanonicalHasher {
    /// A hasher for one scheme; two schemes never give the same digest.
    pub fn new(scheme: &str) -> Self {
        let mut hasher = Self(blake3::Hasher::new());
        hasher.field(scheme.as_bytes());
        hasher
    }

    /// Adds a field: its length as eight bytes, then its bytes.
    pub fn field(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    /// Adds a number as a field.
    pub fn number(&mut self, value: u64) -> &mut Self {
        self.field(&value.to_le_bytes())
    }

    /// The digest of all fields so far.
    pub fn finish(&self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }
}

/// The key of one full KV block: what it holds and all that came before it.
pub type BlockKey = Digest;

/// All that the KV of a prompt depends on besides its tokens and media.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockRoot<'a> {
    /// Digest of the model card (config, weights' index, tokenizer, template, processor).
    pub card: Digest,
    /// Element type of the KV cache (`f32`, `bf16`, …).
    pub kv_dtype: &'a str,
    /// The client's salt: blocks are shared only among requests with the same one.
    pub cache_salt: &'a str,
    /// Identifier of the adapter applied, empty when there is none.
    pub lora_id: &'a str,
}

impl BlockRoot<'_> {
    /// The parent key of a prompt's first block.
    pub fn key(&self) -> BlockKey {
        let mut hasher = CanonicalHasher::new("triptych/kv-root/1");
        hasher.field(&self.card.0);
        hasher.field(self.kv_dtype.as_bytes());
        hasher.field(self.cache_salt.as_bytes());
        hasher.field(self.lora_id.as_bytes());
        hasher.finish()
    }
}

/// The key of the block that starts at position `start` and holds `tokens`, under `parent`.
///
/// `items` are the media of the whole prompt; those that overlap the block enter its key with their
/// digest and the offset of the block inside them.
pub fn block_key(
    parent: BlockKey,
    start: usize,
    tokens: &[TokenId],
    items: &[PlacedItem],
) -> BlockKey {
    let mut hasher = CanonicalHasher::new("triptych/kv-block/1");
    hasher.field(&parent.0);
    let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
    hasher.field(&bytes);
    let end = start + tokens.len();
    for placed in items.iter().filter(|placed| placed.start < end && placed.end() > start) {
        hasher.field(&placed.item.digest.0);
        // Signed distance from the item's first row to the block's first position.
        hasher.field(&(start as i64 - placed.start as i64).to_le_bytes());
    }
    hasher.finish()
}

/// The keys of all full blocks of `tokens`, in order.
pub fn block_keys(
    root: BlockKey,
    tokens: &[TokenId],
    items: &[PlacedItem],
    block_size: usize,
) -> Vec<BlockKey> {
    let mut parent = root;
    let full_blocks = tokens.chunks_exact(block_size).enumerate();
    full_blocks
        .map(|(idx, block)| {
            parent = block_key(parent, idx * block_size, block, items);
            parent
        })
        .collect()
}
