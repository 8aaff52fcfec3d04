//! From the bytes of a chat to the request that workers would get, with no server around it: what
//! fuzzers call, and whoever else has strangers' bytes to try.

use crate::loaded::LoadedModel;
use crate::openai::error::ApiError;
use crate::openai::request;
use crate::plan::{Envelope, plan};
use config::frontend::FrontendLimits;
use std::time::Duration;
use types::card::ModelCard;
use types::request::GenerateRequest;
use types::{RequestId, Result};

/// Reads chats as the server of one model does.
pub struct ChatReader {
    model: LoadedModel,
    limits: FrontendLimits,
}

impl ChatReader {
    /// For the model of this card. Errors: the card cannot be used.
    pub fn new(card: &ModelCard, limits: FrontendLimits) -> Result<Self> {
        Ok(Self { model: LoadedModel::load(card, card.digest())?, limits })
    }

    /// Reads the body of a chat; whatever the model is called in it, it is this one.
    ///
    /// Errors: the body that a client would get instead of an answer.
    pub fn read(&self, body: &[u8]) -> std::result::Result<GenerateRequest, String> {
        let request = request::read(body, &self.limits).map_err(|error| error.body())?;
        let envelope = Envelope {
            id: RequestId(0),
            random_seed: 0,
            first_token_deadline: Duration::ZERO,
            trace: String::new(),
        };
        plan(request, &self.model, envelope).map_err(|error| ApiError::from(error).body())
    }
}
