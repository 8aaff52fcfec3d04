//! The paged pool of KV blocks: who owns each, and when it may be given to somebody else.
//!
//! A block is in exactly one state: free, cached (unreferenced, its content may be found again),
//! owned, leased (a peer may read it) or quarantined (nobody's, but a launched step or a transfer
//! may still touch it). Knows blocks by number only, never their bytes.

use crate::prefix::PrefixCache;
use types::content::BlockKey;

/// How many blocks are in each state; they add up to the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BlockCounts {
    /// In nobody's hands, content worthless.
    pub free: usize,
    /// Unreferenced, content in the prefix cache.
    pub cached: usize,
    /// In the tables of sequences or reserved for an import.
    pub owned: usize,
    /// Held for a peer.
    pub leased: usize,
    /// Nobody's, but something may still touch them.
    pub quarantined: usize,
}

impl BlockCounts {
    /// All of them.
    pub fn total(&self) -> usize {
        self.free + self.cached + self.owned + self.leased + self.quarantined
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlockState {
    Free,
    Cached,
    Owned,
    Leased,
    Quarantined,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Block {
    pub(crate) n_owners: u32,
    pub(crate) n_leases: u32,
    pub(crate) key: Option<BlockKey>,
    /// The last step launched that named it, among those of owners who have let go.
    last_step: u64,
    /// Its place among the unreferenced ones while it is cached.
    stamp: u64,
    quarantined: bool,
}

impl Block {
    pub(crate) fn state(&self) -> BlockState {
        if self.n_leases > 0 {
            BlockState::Leased
        } else if self.n_owners > 0 {
            BlockState::Owned
        } else if self.quarantined {
            BlockState::Quarantined
        } else if self.key.is_some() {
            BlockState::Cached
        } else {
            BlockState::Free
        }
    }

    fn in_use(&self) -> bool {
        self.n_owners > 0 || self.n_leases > 0
    }
}

/// All blocks of one arena.
#[derive(Debug)]
pub(crate) struct BlockPool {
    blocks: Vec<Block>,
    free: Vec<u32>,
    pub(crate) prefix: PrefixCache,
    /// Blocks that wait for a launched step to finish.
    waiting: Vec<u32>,
    /// Blocks that an aborted transfer may still write.
    n_in_transfer: usize,
    n_leased: usize,
    finished_step: u64,
}

impl BlockPool {
    pub(crate) fn new(n_blocks: usize) -> Self {
        Self {
            blocks: vec![Block::default(); n_blocks],
            free: (0..n_blocks as u32).rev().collect(),
            prefix: PrefixCache::default(),
            waiting: Vec::new(),
            n_in_transfer: 0,
            n_leased: 0,
            finished_step: 0,
        }
    }

    /// Blocks that [`Self::alloc`] can give at once.
    pub(crate) fn n_available(&self) -> usize {
        self.free.len() + self.prefix.n_idle()
    }

    pub(crate) fn counts(&self) -> BlockCounts {
        let free = self.free.len();
        let cached = self.prefix.n_idle();
        let quarantined = self.waiting.len() + self.n_in_transfer;
        let owned = self.blocks.len() - free - cached - quarantined - self.n_leased;
        BlockCounts { free, cached, owned, leased: self.n_leased, quarantined }
    }

    /// A block with one owner and worthless content: a free one, or the cached one unused for
    /// longest.
    pub(crate) fn alloc(&mut self) -> Option<u32> {
        let idx = self.free.pop().or_else(|| self.evict())?;
        self.blocks[idx as usize].n_owners = 1;
        Some(idx)
    }

    fn evict(&mut self) -> Option<u32> {
        let idx = self.prefix.oldest()?;
        if let Some(key) = self.blocks[idx as usize].key.take() {
            self.prefix.forget(&key);
        }
        Some(idx)
    }

    /// One more owner of a block that is in use or cached.
    pub(crate) fn own(&mut self, idx: u32) {
        self.revive(idx);
        self.blocks[idx as usize].n_owners += 1;
    }

    /// Takes a block that nobody uses out of the cache or the quarantine.
    fn revive(&mut self, idx: u32) {
        match self.blocks[idx as usize].state() {
            BlockState::Cached => self.prefix.wake(self.blocks[idx as usize].stamp),
            BlockState::Quarantined => {
                self.waiting.retain(|waiting| *waiting != idx);
                self.blocks[idx as usize].quarantined = false;
            }
            BlockState::Owned | BlockState::Leased => {}
            BlockState::Free => debug_assert!(false, "block {idx} is free and has no content"),
        }
    }

    /// One owner less; `last_step` is the last step launched that named the block for this owner.
    pub(crate) fn disown(&mut self, idx: u32, last_step: u64) {
        let block = &mut self.blocks[idx as usize];
        block.n_owners -= 1;
        block.last_step = block.last_step.max(last_step);
        self.settle(idx);
    }

    /// The caller's ownership becomes a lease.
    pub(crate) fn lease(&mut self, idx: u32) {
        let block = &mut self.blocks[idx as usize];
        self.n_leased += usize::from(block.n_leases == 0);
        block.n_owners -= 1;
        block.n_leases += 1;
    }

    /// One lease less.
    pub(crate) fn unlease(&mut self, idx: u32) {
        let block = &mut self.blocks[idx as usize];
        block.n_leases -= 1;
        self.n_leased -= usize::from(block.n_leases == 0);
        self.settle(idx);
    }

    /// The caller's ownership of a block that a transfer may still write becomes nobody's.
    pub(crate) fn quarantine(&mut self, idx: u32) {
        let block = &mut self.blocks[idx as usize];
        debug_assert!(block.n_owners == 1 && block.key.is_none(), "block {idx} is shared");
        block.n_owners = 0;
        block.quarantined = true;
        self.n_in_transfer += 1;
    }

    /// The transfer into a quarantined block is over.
    pub(crate) fn unquarantine(&mut self, idx: u32) {
        self.n_in_transfer -= 1;
        self.blocks[idx as usize].quarantined = false;
        self.settle(idx);
    }

    /// Puts a block that nobody uses where it belongs.
    fn settle(&mut self, idx: u32) {
        let block = &mut self.blocks[idx as usize];
        if block.in_use() {
            return;
        }
        if block.last_step > self.finished_step {
            block.quarantined = true;
            self.waiting.push(idx);
        } else if block.key.is_some() {
            block.stamp = self.prefix.rest(idx);
        } else {
            self.free.push(idx);
        }
    }

    /// A step is over: blocks that waited for it can be used again.
    pub(crate) fn finish(&mut self, step: u64) {
        self.finished_step = step;
        for idx in std::mem::take(&mut self.waiting) {
            self.blocks[idx as usize].quarantined = false;
            self.settle(idx);
        }
    }

    /// The last step that is over.
    pub(crate) fn finished_step(&self) -> u64 {
        self.finished_step
    }

    /// Whether the only owner may write into the block.
    pub(crate) fn is_writable(&self, idx: u32) -> bool {
        let block = &self.blocks[idx as usize];
        block.n_owners == 1 && block.n_leases == 0 && block.key.is_none()
    }

    /// Puts a full block into the prefix cache, or gives the block that already holds the key.
    pub(crate) fn share(&mut self, idx: u32, key: BlockKey) -> Option<u32> {
        if let Some(holder) = self.prefix.get(&key) {
            return (holder != idx).then_some(holder);
        }
        self.prefix.insert(key, idx);
        self.blocks[idx as usize].key = Some(key);
        None
    }

    pub(crate) fn blocks(&self) -> &[Block] {
        &self.blocks
    }
}
