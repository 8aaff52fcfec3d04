//! [`Router`]: the membership, the cards and the spine behind [`Backend`].

use crate::backend::{Backend, ServedModel};
use crate::cards::Cards;
use crate::lend::Lender;
use crate::members::Members;
use crate::spine;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use planes::{Planes, reply_stream};
use std::sync::Arc;
use std::time::Duration;
use tracing::{Instrument, info_span};
use types::Result;
use types::card::ModelCard;
use types::output::GenerateResult;
use types::request::GenerateRequest;

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
}

impl Router {
    /// Begins to watch discovery, and to lend media to whoever encodes.
    ///
    /// Errors: discovery does not say who is there, or the transport cannot serve.
    pub async fn start(planes: Planes, config: RouterConfig) -> Result<Self> {
        let lender = Lender::start(&*planes.transport).await?;
        let members = Members::watch(&*planes.discovery, config.snapshot_deadline).await?;
        let cards = Cards::default();
        Ok(Self(Arc::new(Shared { planes, config, members, cards, lender })))
    }
}

impl Backend for Router {
    fn models(&self) -> Vec<ServedModel> {
        self.0.members.models()
    }

    fn card(&self, model: &str) -> BoxFuture<'static, Result<Arc<ModelCard>>> {
        let (shared, model) = (Arc::clone(&self.0), model.to_owned());
        async move {
            let instance = shared.members.any_of(&model)?;
            shared.cards.get(&*shared.planes.messaging, &instance, &shared.config).await
        }
        .boxed()
    }

    fn generate(&self, request: GenerateRequest) -> BoxStream<'static, GenerateResult> {
        let shared = Arc::clone(&self.0);
        let span = info_span!("request", id = %request.id);
        reply_stream(move |out| spine::generate(shared, request, out).instrument(span))
    }
}
