//! The prefix cache's two indices: key to block, and the unreferenced blocks by time of last use.
//!
//! Knows neither sequences nor the pool: only blocks that somebody filled, by key.

use std::collections::{BTreeMap, HashMap};
use types::content::BlockKey;

/// Which block holds which key, and in which order unreferenced ones are given up.
#[derive(Debug, Default)]
pub(crate) struct PrefixCache {
    by_key: HashMap<BlockKey, u32>,
    /// Unreferenced blocks, least recently used first.
    idle: BTreeMap<u64, u32>,
    clock: u64,
}

impl PrefixCache {
    pub(crate) fn get(&self, key: &BlockKey) -> Option<u32> {
        self.by_key.get(key).copied()
    }

    pub(crate) fn insert(&mut self, key: BlockKey, block: u32) {
        self.by_key.insert(key, block);
    }

    /// Marks a block as unreferenced; the stamp takes it out again.
    pub(crate) fn rest(&mut self, block: u32) -> u64 {
        self.clock += 1;
        self.idle.insert(self.clock, block);
        self.clock
    }

    /// Marks a block as referenced again.
    pub(crate) fn wake(&mut self, stamp: u64) {
        self.idle.remove(&stamp);
    }

    /// The block unreferenced for longest.
    pub(crate) fn oldest(&mut self) -> Option<u32> {
        self.idle.pop_first().map(|(_, block)| block)
    }

    pub(crate) fn forget(&mut self, key: &BlockKey) {
        self.by_key.remove(key);
    }

    pub(crate) fn n_idle(&self) -> usize {
        self.idle.len()
    }

    pub(crate) fn n_keys(&self) -> usize {
        self.by_key.len()
    }
}
