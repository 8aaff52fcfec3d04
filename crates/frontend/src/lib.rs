//! HTTP in front of the spine: OpenAI's API, streaming, limits, and a graceful end.
//!
//! The only crate that knows an API's shapes (`openai`). Must not know engines, scheduling or any
//! concrete plane: all it needs of them is [`router::Backend`].

mod admission;
mod alarm;
mod answer;
mod app;
mod body;
mod chat;
mod connections;
mod conversation;
mod cors;
mod door;
mod keys;
mod loaded;
mod offload;
mod openai;
mod pace;
mod patience;
mod phase;
mod plan;
mod reader;
mod request_id;
mod run;
mod server;
mod shutdown;

pub use door::{Door, check_tls};
pub use reader::ChatReader;
pub use server::serve;
pub use shutdown::{Shutdown, ShutdownTrigger};
