//! Model cards, fetched from a worker in pieces and kept by digest.

use crate::calls::{Conversation, Terms, out_of_place};
use crate::router::RouterConfig;
use planes::{Instance, Messaging};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::OnceCell;
use types::card::ModelCard;
use types::content::Digest;
use types::{Error, Result};
use wire::message::{Reply, Request};

/// Cards kept; one more throws all of them out, since a frontend serves a handful of models.
const N_CARDS_MAX: usize = 16;

/// Largest card, in bytes (the tokenizer is most of it).
const N_CARD_BYTES_MAX: usize = 256 << 20;

#[derive(Default)]
pub(crate) struct Cards(Mutex<HashMap<Digest, Arc<Place>>>);

/// A card, once it has been fetched. Whoever comes meanwhile waits for the one fetch, for a card is
/// some ten megabytes and requests come by hundreds.
type Place = OnceCell<Arc<ModelCard>>;

impl Cards {
    /// Whether the card is here.
    pub(crate) fn knows(&self, card: &Digest) -> bool {
        self.lock().get(card).is_some_and(|place| place.initialized())
    }

    /// The card of `instance`. Errors: the instance did not send it, or not the one it announced.
    pub(crate) async fn get(
        &self,
        messaging: &dyn Messaging,
        instance: &Instance,
        config: &RouterConfig,
    ) -> Result<Arc<ModelCard>> {
        let place = self.place(instance.card);
        let fetched = place.get_or_try_init(|| async {
            let card = fetch(messaging, instance, config).await?;
            if card.digest() != instance.card {
                let message = "a worker sent another model card than it announced";
                return Err(Error::internal(message));
            }
            Ok(Arc::new(card))
        });
        fetched.await.cloned()
    }

    fn place(&self, card: Digest) -> Arc<Place> {
        let mut cards = self.lock();
        if cards.len() >= N_CARDS_MAX && !cards.contains_key(&card) {
            cards.clear();
        }
        Arc::clone(cards.entry(card).or_default())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Arc<Place>>> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;
    use futures::future::{BoxFuture, join_all};
    use planes::{Address, Call, Handler, Replies, Withdraw};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use types::stage::Stages;
    use types::{ErrorKind, InstanceId};

    /// Tells a card to whoever asks, after it has failed so many times.
    struct Teller {
        card: ModelCard,
        n_failures: usize,
        n_asked: AtomicUsize,
    }

    impl Messaging for Teller {
        fn call(&self, _: &Address, _: Call) -> Replies {
            let n_asked = self.n_asked.fetch_add(1, Ordering::Relaxed);
            let card = wire::encode_reply(&Reply::Card(wire::encode_card(&self.card)));
            let is_lost = n_asked < self.n_failures;
            let told = async move {
                tokio::task::yield_now().await;
                if is_lost { Err(Error::new(ErrorKind::PeerLost, "gone")) } else { Ok(card) }
            };
            futures::stream::once(told).boxed()
        }

        fn serve(&self, _: &Address, _: Arc<dyn Handler>) -> BoxFuture<'static, Result<Withdraw>> {
            unreachable!("nobody serves here")
        }
    }

    fn teller(n_failures: usize) -> Teller {
        let card = ModelCard { max_seq_len: 7, ..ModelCard::default() };
        Teller { card, n_failures, n_asked: AtomicUsize::new(0) }
    }

    fn instance(card: Digest) -> Instance {
        Instance {
            id: InstanceId(1),
            model: "m".into(),
            card,
            stages: Stages::ALL,
            address: Address("w".into()),
            transports: Vec::new(),
            kv: None,
            encode_endpoint: None,
        }
    }

    #[tokio::test]
    async fn all_who_wait_for_a_card_share_one_fetch() {
        let (cards, teller, config) = (Cards::default(), teller(1), RouterConfig::default());
        let instance = instance(teller.card.digest());
        assert!(!cards.knows(&instance.card));
        let asked = (0..200).map(|_| cards.get(&teller, &instance, &config));
        let got = join_all(asked).await;
        // The first asks in vain, and hears so; the second asks again for all others.
        assert_eq!(got.iter().filter(|card| card.is_err()).count(), 1);
        assert_eq!(teller.n_asked.load(Ordering::Relaxed), 2);
        assert!(cards.knows(&instance.card));
    }

    #[tokio::test]
    async fn another_card_than_announced_is_refused() {
        let (cards, teller, config) = (Cards::default(), teller(0), RouterConfig::default());
        let instance = instance(Digest([1; 32]));
        let failure = cards.get(&teller, &instance, &config).await.unwrap_err();
        assert!(failure.message.contains("another model card"), "{failure}");
        assert!(!cards.knows(&instance.card));
    }
}
