//! The words every crate shares: ids, tokens, media, prompts, sampling, content identity, errors.
//!
//! Pure values and pure functions. Must not know tokio, serde, tensors, files or sockets.

pub mod card;
pub mod content;
pub mod error;
pub mod ids;
pub mod kv;
pub mod media;
pub mod output;
pub mod prompt;
pub mod request;
pub mod sampling;
pub mod stage;

pub use error::{Error, ErrorKind, Result};
pub use ids::{InstanceId, LeaseId, RequestId, Secret, TokenId};
