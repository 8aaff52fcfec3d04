//! The async shells of the roles: they take calls, fetch media, move rows and KV blocks, and drive
//! an engine. `encode`, `prefill` and `decode` are the three stages; a call may ask for
//! several.
//!
//! Must not know any concrete plane, HTTP's shapes, or how requests are routed.

mod calls;
mod cancelled;
mod credit;
mod decode;
mod encode;
mod events;
mod handler;
mod media_bytes;
mod media_items;
mod media_memory;
mod peers;
mod prefill;
mod presence;
mod pull;
mod room;
mod rows;
mod running;
mod sequence;
mod terms;
mod waiting;
mod worker;

pub use worker::{MediaPolicy, Worker, WorkerParts, WorkerView};
