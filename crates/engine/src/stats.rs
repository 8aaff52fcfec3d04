//! Figures of an engine at one moment.

use crate::doublings::Doublings;
use scheduler::SchedulerStats;

/// What may be expected of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Condition {
    /// It works.
    #[default]
    Well,
    /// Its last steps failed, one after the other. It is well again after one that succeeds.
    Failing,
    /// It refuses everything, and does so for good.
    Broken,
}

/// A snapshot, taken at the end of each turn of the engine's loop. Counters run from the start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EngineStats {
    /// What may be expected of it.
    pub condition: Condition,
    /// Whether the scheduler's accounts have been counted again since the last work.
    pub checked: bool,
    /// Blocks, queues, prefix cache and preemptions.
    pub scheduler: SchedulerStats,
    /// Media that wait for the tower.
    pub n_encode_waiting: usize,
    /// Bytes of embedding rows in use.
    pub embedding_bytes_used: usize,
    /// Bytes of embedding memory.
    pub embedding_bytes: usize,
    /// Steps finished.
    pub n_steps: u64,
    /// Steps that the device could not run.
    pub n_failed_steps: u64,
    /// Token rows computed.
    pub n_rows: u64,
    /// Tokens sampled.
    pub n_sampled: u64,
    /// Time spent in steps, in microseconds.
    pub step_us: u64,
    /// Duration of the last step, in microseconds.
    pub last_step_us: u64,
    /// Sequences in the last step.
    pub last_step_seqs: usize,
    /// Media encoded.
    pub n_encoded_items: u64,
    /// Patches encoded.
    pub n_encoded_patches: u64,
    /// Time spent in the tower, in microseconds.
    pub encode_us: u64,
    /// Runs of the tower by the number of their media.
    pub encode_batches: Doublings<11>,
    /// Media by the time from their arrival here to their rows, in microseconds.
    pub encode_waits_us: Doublings<17>,
}

impl Default for EngineStats {
    fn default() -> Self {
        Self {
            condition: Condition::Well,
            checked: true,
            scheduler: SchedulerStats::default(),
            n_encode_waiting: 0,
            embedding_bytes_used: 0,
            embedding_bytes: 0,
            n_steps: 0,
            n_failed_steps: 0,
            n_rows: 0,
            n_sampled: 0,
            step_us: 0,
            last_step_us: 0,
            last_step_seqs: 0,
            n_encoded_items: 0,
            n_encoded_patches: 0,
            encode_us: 0,
            encode_batches: Doublings::new(1),
            encode_waits_us: Doublings::new(100),
        }
    }
}
