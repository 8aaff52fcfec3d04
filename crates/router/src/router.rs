//! [`Router`]: the membership, the cards and the spine behind [`Backend`].

use crate::backend::{Backend, ServedModel};
use crate::calls::{Conversation, Terms};
use crate::cards::Cards;
use crate::lend::Lender;
use crate::members::Members;
use crate::places::Places;
use crate::spine;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use planes::{Planes, reply_stream};
use std::sync::Arc;
use std::time::Duration;
use tracing::{Instrument, info_span};
use types::card::ModelCard;
use types::content::Digest;
use types::output::GenerateResult;
use types::request::GenerateRequest;
use types::{Error, RequestId, Result};
use wire::message::Request;

/// Deadlines of the spine.
#[derive(Debug, Clone)]
pub struct RouterConfig {
    /// Longest time between two replies once the first token is out.
    pub idle_stream_deadline: Duration,
    /// Longest time a card may take to arrive.
    pub card_deadline: Duration,
    /// Longest time until discovery says who is there.
    pub snapshot_deadline: Duration,
}

impl Default for RouterConfig {
    fn default() -> Self {
        Self {
            idle_stream_deadline: Duration::from_secs(60),
            card_deadline: Duration::from_secs(10),
            snapshot_deadline: Duration::from_secs(30),
        }
    }
}

/// Sends each request through its stages on the instances that discovery shows.
pub struct Router(Arc<Shared>);

/// What every request of this router uses.
pub(crate) struct Shared {
    pub(crate) planes: Planes,
    pub(crate) config: RouterConfig,
    pub(crate) members: Members,
    pub(crate) cards: Cards,
    pub(crate) lender: Lender,
    pub(crate) places: Places,
}

impl Router {
    /// Begins to watch discovery, and to lend media to whoever encodes.
    ///
    /// Errors: discovery does not say who is there, or the transport cannot serve.
    pub async fn start(planes: Planes, config: RouterConfig) -> Result<Self> {
        let lender = Lender::start(&*planes.transport).await?;
        let members = Members::watch(&*planes.discovery, config.snapshot_deadline).await?;
        let cards = Cards::default();
        Ok(Self(Arc::new(Shared {
            planes,
            config,
            members,
            cards,
            lender,
            places: Places::default(),
        })))
    }
}

impl Backend for Router {
    fn models(&self) -> Vec<ServedModel> {
        self.0.members.models()
    }

    fn card(&self, model: &str) -> BoxFuture<'static, Result<Arc<ModelCard>>> {
        let (shared, model) = (Arc::clone(&self.0), model.to_owned());
        async move {
            let knows = |card: &Digest| shared.cards.knows(card);
            let tellers = shared.members.tellers_of(&model, knows)?;
            let mut failure = Error::internal("nobody was asked for a card");
            for teller in tellers {
                let card = shared.cards.get(&*shared.planes.messaging, &teller, &shared.config);
                match card.await {
                    Ok(card) => return Ok(card),
                    Err(refused) => failure = refused,
                }
                shared.members.suspect(teller.id);
            }
            Err(failure)
        }
        .boxed()
    }

    fn generate(&self, request: GenerateRequest) -> BoxStream<'static, GenerateResult> {
        let shared = Arc::clone(&self.0);
        let span = info_span!("request", id = %request.id);
        reply_stream(move |out| spine::generate(shared, request, out).instrument(span))
    }

    fn finish_choice(&self, id: RequestId, choice: u32) {
        let Some(address) = self.0.places.find(id) else { return };
        let request = Request::FinishChoice { request: id, choice };
        let deadline = self.0.config.card_deadline;
        let messaging = &*self.0.planes.messaging;
        let terms = Terms { deadline, trace: "" };
        let mut conversation = Conversation::begin(messaging, &address, &request, terms);
        // A hint: when it is lost, the choice merely runs to its end unread.
        tokio::spawn(async move { drop(conversation.next(deadline).await) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::{self, Script};
    use futures::StreamExt;
    use planes::{Address, Instance, RemoteHandle};
    use types::kv::KvLayout;
    use types::output::{GenerateEvent, OutputToken};
    use types::sampling::SamplingParams;
    use types::stage::{Stage, Stages};
    use types::{ErrorKind, InstanceId, LeaseId, Secret};
    use wire::message::{KvHandoff, Reply};

    fn instance(id: u128, card: &ModelCard, stages: Stages) -> Instance {
        Instance {
            id: InstanceId(id),
            model: "m".into(),
            card: card.digest(),
            stages,
            address: Address(format!("w.{id}")),
            transports: Vec::new(),
            kv: None,
            encode_endpoint: None,
        }
    }

    fn card(name: &str) -> ModelCard {
        ModelCard {
            files: vec![(name.into(), b"{}".to_vec())],
            weights: Digest([3; 32]),
            max_seq_len: 4096,
            template_override: None,
            media: Vec::new(),
        }
    }

    /// The card in pieces of a few bytes.
    fn told(card: &ModelCard) -> Vec<types::Result<Reply>> {
        let bytes = wire::encode_card(card);
        bytes.chunks(7).map(|piece| Ok(Reply::Card(piece.to_vec().into()))).collect()
    }

    /// Three workers announce the same card: one sends another, one sends none, one is honest.
    #[tokio::test]
    async fn a_card_is_taken_from_whoever_sends_what_was_announced() {
        let (announced, another) = (card("config.json"), card("other.json"));
        let whole = |id| instance(id, &announced, Stages::ALL);
        let said = [told(&another), Vec::new(), told(&announced)];
        let says = move |address: &Address, _: &Request| {
            let id: usize = address.0.trim_start_matches("w.").parse().unwrap();
            Script::ends(said[id - 1].clone())
        };
        let planes = scripted::planes(vec![whole(1), whole(2), whole(3)], says.clone());
        let router = Router::start(planes, RouterConfig::default()).await.unwrap();
        assert_eq!(*router.card("m").await.unwrap(), announced);
        let tellers = router.0.members.tellers_of("m", |_| true).unwrap();
        let order: Vec<u128> = tellers.iter().map(|teller| teller.id.0).collect();
        assert_eq!(order, [3, 1, 2], "the others are suspects now");
        // Without the honest one there is no card at all.
        let alone = scripted::planes(vec![whole(1)], says);
        let router = Router::start(alone, RouterConfig::default());
        let refused = router.await.unwrap().card("m").await.unwrap_err();
        assert!(refused.message.contains("another model card"), "{refused}");
    }

    fn handoff() -> KvHandoff {
        let dtype = String::new();
        KvHandoff {
            handle: RemoteHandle {
                owner: Address("w.1".into()),
                transports: Vec::new(),
                lease: LeaseId { slot: 0, generation: 0 },
                secret: Secret(0),
            },
            layout: KvLayout { block_size: 32, n_layers: 1, n_kv_heads: 1, head_dim: 1, dtype },
            n_tokens: 3,
            positions_delta: 0,
            first: vec![Some(5)],
            transfer_time: Duration::from_secs(60),
        }
    }

    fn words(card: &ModelCard) -> GenerateRequest {
        GenerateRequest {
            id: RequestId(1),
            model: "m".into(),
            card: card.digest(),
            prompt: vec![1, 2, 3],
            media: Vec::new(),
            sampling: SamplingParams::default(),
            cache_salt: String::new(),
            first_token_deadline: Duration::from_secs(60),
            trace: String::new(),
        }
    }

    /// Decode is still reading when prefill ends: a slow network is no reason to give prefill up.
    #[tokio::test]
    async fn only_a_lender_that_is_gone_is_passed_over() {
        let check = async |end: ErrorKind, expected: ErrorKind, order: [u128; 2]| {
            let card = card("config.json");
            let (prefill, decode) = (Stages::of(&[Stage::Prefill]), Stages::of(&[Stage::Decode]));
            let there = vec![instance(1, &card, prefill), instance(2, &card, decode)];
            let token = OutputToken { token: 5, logprob: None, top_logprobs: Vec::new() };
            let says = move |_: &Address, request: &Request| match request {
                Request::Run(run) if run.stages == prefill => Script::ends(vec![
                    Ok(Reply::Admitted { prompt_tokens: 3, cached_tokens: 0 }),
                    Ok(Reply::Tokens { choice: 0, tokens: vec![token.clone()] }),
                    Ok(Reply::Handoff(handoff())),
                    Err(Error::new(end, "the KV blocks were not read")),
                ]),
                Request::Reserve { .. } => Script::stays(vec![Ok(Reply::Reserved)]),
                _ => Script::stays(Vec::new()),
            };
            let router = Router::start(scripted::planes(there, says), RouterConfig::default());
            let router = router.await.unwrap();
            let events: Vec<_> = router.generate(words(&card)).collect().await;
            let [admitted, first, Err(failure)] = &events[..] else { panic!("{events:?}") };
            assert!(matches!(admitted, Ok(GenerateEvent::Admitted { .. })), "{admitted:?}");
            assert!(matches!(first, Ok(GenerateEvent::Tokens { .. })), "{first:?}");
            assert_eq!(failure.kind, expected, "{failure}");
            assert!(failure.message.contains("were not read"), "{failure}");
            let tellers = router.0.members.tellers_of("m", |_| true).unwrap();
            assert_eq!(tellers.iter().map(|it| it.id.0).collect::<Vec<_>>(), order, "{end:?}");
        };
        check(ErrorKind::Timeout, ErrorKind::Timeout, [1, 2]).await;
        // Nobody else prefills, and that is said.
        check(ErrorKind::PeerLost, ErrorKind::Unavailable, [2, 1]).await;
    }
}
