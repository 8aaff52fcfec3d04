//! Figures of a scheduler at one moment.

use crate::blocks::BlockCounts;

/// What is where, and what has happened since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SchedulerStats {
    /// KV blocks by state.
    pub blocks: BlockCounts,
    /// Sequences that may run at a time.
    pub n_places: usize,
    /// Sequences that wait for their turn.
    pub n_waiting: usize,
    /// Sequences in the running batch.
    pub n_running: usize,
    /// Imports that wait for blocks.
    pub n_imports_waiting: usize,
    /// Imports whose bytes are on the way.
    pub n_importing: usize,
    /// Requests whose blocks are held for a peer.
    pub n_exported: usize,
    /// Prompt tokens found in the prefix cache.
    pub prefix_hit_tokens: u64,
    /// Prompt tokens looked up in the prefix cache.
    pub prefix_query_tokens: u64,
    /// Sequences that lost their blocks to others.
    pub n_preempted: u64,
}
