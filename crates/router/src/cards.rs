//! Model cards, fetched from a worker in pieces and kept by digest.

use crate::calls::{Conversation, Terms, out_of_place};
use crate::router::RouterConfig;
use planes::{Instance, Messaging};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use types::card::ModelCard;
use types::content::Digest;
use types::{Error, Result};
use wire::message::{Reply, Request};

/// Cards kept; one more throws all of them out, since a frontend serves a handful of models.
const N_CARDS_MAX: usize = 16;

/// Largest card, in bytes (the tokenizer is most of it).
const N_CARD_BYTES_MAX: usize = 256 << 20;

#[derive(Default)]
pub(crate) struct Cards(Mutex<HashMap<Digest, Arc<ModelCard>>>);

impl Cards {
    /// Whether the card is here.
    pub(crate) fn knows(&self, card: &Digest) -> bool {
        self.lock().contains_key(card)
    }

    /// The card of `instance`. Errors: the instance did not send it, or not the one it announced.
    pub(crate) async fn get(
        &self,
        messaging: &dyn Messaging,
        instance: &Instance,
        config: &RouterConfig,
    ) -> Result<Arc<ModelCard>> {
        if let Some(card) = self.lock().get(&instance.card) {
            return Ok(Arc::clone(card));
        }
        let card = Arc::new(fetch(messaging, instance, config).await?);
        if card.digest() != instance.card {
            return Err(Error::internal("a worker sent another model card than it announced"));
        }
        let mut cards = self.lock();
        if cards.len() >= N_CARDS_MAX {
            cards.clear();
        }
        cards.insert(instance.card, Arc::clone(&card));
        Ok(card)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Arc<ModelCard>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn fetch(
    messaging: &dyn Messaging,
    instance: &Instance,
    config: &RouterConfig,
) -> Result<ModelCard> {
    let deadline = config.card_deadline;
    let request = Request::FetchCard;
    let terms = Terms { deadline, trace: "" };
    let mut replies = Conversation::begin(messaging, &instance.address, &request, terms);
    let mut bytes = Vec::new();
    while let Some(reply) = replies.next(deadline).await? {
        let Reply::Card(piece) = reply else { return Err(out_of_place(&reply)) };
        if bytes.len() + piece.len() > N_CARD_BYTES_MAX {
            return Err(Error::internal("a model card is over the size limit"));
        }
        bytes.extend_from_slice(&piece);
    }
    wire::decode_card(bytes.into())
}
