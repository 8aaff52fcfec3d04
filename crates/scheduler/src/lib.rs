//! Who runs next: queues, paged KV blocks, prefix cache, preemption, import and export.
//!
//! A synchronous, deterministic state machine. The owner of a device calls
//! [`Scheduler::next_batch`] for a [`Batch`], runs it, and hands the sampled tokens to
//! [`Scheduler::finish`]; what requests must be told comes out of [`Scheduler::drain_events`]. Must
//! not know tensors, threads, sockets or clocks.

mod batch;
mod blocks;
mod config;
mod encode_queue;
mod event;
mod finish_choice;
mod fork;
mod invariants;
mod plan;
mod preempt;
mod prefix;
mod queue;
mod request;
mod scheduler;
mod sequence;
mod stats;
mod transfer;

pub use batch::{Batch, BlockCopy, SeqStep};
pub use blocks::BlockCounts;
pub use config::SchedulerConfig;
pub use encode_queue::{EncodeEntry, EncodeQueue};
pub use event::{Event, EventKind};
pub use request::{NewImport, NewRequest, StopRule, Until};
pub use scheduler::Scheduler;
pub use sequence::{Rank, Sequence};
pub use stats::SchedulerStats;
