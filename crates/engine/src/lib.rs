//! One device, one thread: requests in, tokens out.
//!
//! An [`Engine`] is a handle to a thread that owns the KV pool, the embedding memory and the model,
//! and runs what the scheduler decides. Roles are ways of using it: encode only, prefill until the
//! first token and export, import and decode, or all of it.
//! Must not know async runtimes, planes, texts or HTTP.

mod command;
mod config;
mod core;
mod doublings;
mod encoder;
mod engine;
mod live;
mod mailbox;
mod mock;
mod request;
mod runner;
mod stats;
mod steps;

pub use config::{Backend, EngineConfig, usual_graph_batch_sizes};
pub use doublings::Doublings;
pub use engine::{Engine, start};
pub use mock::{MockCost, MockModel, MockScript};
pub use request::{
    EncodeJob, EncodeSink, ImportRequest, SeqEvent, SeqRequest, SeqSink, Until, Used,
};
pub use scheduler::{BlockCounts, SchedulerConfig, SchedulerStats};
pub use stats::{Condition, EngineStats};
