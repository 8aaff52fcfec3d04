//! What every API (OpenAI's, KServe's) needs of the system underneath, in four methods.

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use std::sync::Arc;
use types::card::ModelCard;
use types::output::GenerateResult;
use types::request::GenerateRequest;
use types::{RequestId, Result};

/// A model that clients may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedModel {
    /// Its served name.
    pub name: String,
    /// When it was first seen, in seconds since the Unix epoch.
    pub created_s: u64,
    /// The role that is missing before it can answer; `None` when it is ready.
    pub missing: Option<String>,
}

/// The system under an API.
pub trait Backend: Send + Sync {
    /// The models known at this moment.
    fn models(&self) -> Vec<ServedModel>;

    /// The card of a model. Errors: no such model, or nobody there who has the card.
    fn card(&self, model: &str) -> BoxFuture<'static, Result<Arc<ModelCard>>>;

    /// Runs a request. The first item is `Admitted` or the error that refuses it; dropping the
    /// stream cancels all its work.
    fn generate(&self, request: GenerateRequest) -> BoxStream<'static, GenerateResult>;

    /// Nobody wants more of one choice of a running request: its text has ended. The others go on.
    ///
    /// Only spares work: tokens of the choice may come all the same, and its `Finished` need not.
    /// Must not block.
    fn finish_choice(&self, id: RequestId, choice: u32);
}
