//! Sequences that wait for their turn, in order of rank, and which of them hold cached blocks.
//!
//! Knows ranks only.

use crate::sequence::Rank;
use std::collections::BTreeSet;
use std::ops::Bound;

/// The waiting sequences.
#[derive(Debug, Default)]
pub(crate) struct WaitingQueue {
    ranks: BTreeSet<Rank>,
    holders: BTreeSet<Rank>,
}

impl WaitingQueue {
    pub(crate) fn len(&self) -> usize {
        self.ranks.len()
    }

    /// Adds a sequence; `holds_blocks` says whether it keeps blocks while it waits.
    pub(crate) fn insert(&mut self, rank: Rank, holds_blocks: bool) {
        self.ranks.insert(rank);
        self.set_holder(rank, holds_blocks);
    }

    pub(crate) fn set_holder(&mut self, rank: Rank, holds_blocks: bool) {
        if holds_blocks {
            self.holders.insert(rank);
        } else {
            self.holders.remove(&rank);
        }
    }

    pub(crate) fn remove(&mut self, rank: Rank) {
        self.ranks.remove(&rank);
        self.holders.remove(&rank);
    }

    /// The first sequence after `rank`, or the first of all.
    pub(crate) fn after(&self, rank: Option<Rank>) -> Option<Rank> {
        let from = rank.map_or(Bound::Unbounded, Bound::Excluded);
        self.ranks.range((from, Bound::Unbounded)).next().copied()
    }

    /// The last sequence that holds blocks, apart from `except`.
    pub(crate) fn last_holder(&self, except: Rank) -> Option<Rank> {
        self.holders.iter().rev().find(|rank| **rank != except).copied()
    }

    pub(crate) fn contains(&self, rank: Rank) -> bool {
        self.ranks.contains(&rank)
    }

    pub(crate) fn holds_blocks(&self, rank: Rank) -> bool {
        self.holders.contains(&rank)
    }
}
