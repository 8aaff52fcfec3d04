//! The way of a request through its stages: encode, prefill, decode.
//!
//! The same steps run whether the stages are in one process or in many: consecutive stages on one
//! instance are one call, and what passes between them does not travel. Each stage's conversation
//! is kept until the next one has what it needs of it; dropping it releases everything behind it.

use crate::calls::{Conversation, out_of_place};
use crate::lend::LentMedia;
use crate::progress::{Progress, ended_too_soon};
use crate::route::Route;
use crate::router::Shared;
use planes::{Instance, ReplySender};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{Instrument, info_span};
use types::output::GenerateEvent;
use types::request::GenerateRequest;
use types::sampling::SamplingParams;
use types::stage::{Stage, Stages};
use types::{Result, TokenId};
use wire::message::{Item, KvHandoff, Reply, Request, Run};

/// How much longer than the first token's deadline media stay lent, so that the deadline ends
/// first.
const LEND_MARGIN: Duration = Duration::from_secs(5);

/// Runs a request; what it yields goes to `out`. Returning early cancels whatever is under way.
pub(crate) async fn generate(
    shared: Arc<Shared>,
    request: GenerateRequest,
    out: ReplySender<GenerateEvent>,
) -> Result<()> {
    let lent = shared.lender.lend(&request.media, request.first_token_deadline + LEND_MARGIN)?;
    let mut progress = Progress::new(request.sampling.n, out);
    run_stages(&shared, Attempt::first(&request, &lent), &mut progress).await?;
    // Decode gives a choice up when it runs out of blocks; it cannot prefill, so we begin again.
    while let Some(choice) = progress.resume() {
        let lent =
            shared.lender.lend(&request.media, request.first_token_deadline + LEND_MARGIN)?;
        let attempt = Attempt::again(&request, &lent, choice, progress.tokens(choice));
        run_stages(&shared, attempt, &mut progress).await?;
    }
    progress.check_none_lost()
}

/// One passage through the stages, for all choices or for one that is taken up again.
struct Attempt<'a> {
    request: &'a GenerateRequest,
    lent: &'a LentMedia,
    prompt: Vec<TokenId>,
    sampling: SamplingParams,
    first_choice: u32,
    n_answered: u32,
    started: Instant,
}

impl<'a> Attempt<'a> {
    fn first(request: &'a GenerateRequest, lent: &'a LentMedia) -> Self {
        Self {
            request,
            lent,
            prompt: request.prompt.clone(),
            sampling: request.sampling.clone(),
            first_choice: 0,
            n_answered: 0,
            started: Instant::now(),
        }
    }

    fn again(
        request: &'a GenerateRequest,
        lent: &'a LentMedia,
        choice: u32,
        answer: &[TokenId],
    ) -> Self {
        Self {
            prompt: [&request.prompt, answer].concat(),
            sampling: SamplingParams { n: 1, ..request.sampling.clone() },
            first_choice: choice,
            n_answered: answer.len() as u32,
            ..Self::first(request, lent)
        }
    }

    /// What is left of the time to the first token.
    fn time_left(&self) -> Duration {
        self.request.first_token_deadline.saturating_sub(self.started.elapsed())
    }

    fn run(&self, stages: Stages) -> Run {
        Run {
            id: self.request.id,
            stages,
            prompt: self.prompt.clone(),
            media: if stages.has(Stage::Encode) { self.lent.media.clone() } else { Vec::new() },
            items: Vec::new(),
            sampling: self.sampling.clone(),
            cache_salt: self.request.cache_salt.clone(),
            first_choice: self.first_choice,
            n_answered: self.n_answered,
            kv: None,
        }
    }
}

async fn run_stages(shared: &Shared, attempt: Attempt<'_>, progress: &mut Progress) -> Result<()> {
    let has_media = !attempt.request.media.is_empty();
    let plan = || shared.members.route(&attempt.request.model, has_media);
    let (route, _running) = info_span!("plan").in_scope(plan)?;
    let encoded = match &route.encode {
        Some(encoder) => encode(shared, encoder, &attempt).instrument(info_span!("encode")).await?,
        None => Encoded::default(),
    };
    let prefill = prefill(shared, &route, &attempt, encoded.items, progress);
    let prefilled = prefill.instrument(info_span!("prefill")).await?;
    // Prefill holds its own copy of the rows by now.
    drop(encoded.conversation);
    let (Some(prefilled), Some(decoder)) = (prefilled, &route.decode) else { return Ok(()) };
    let decode = decode(shared, decoder, &attempt, prefilled, progress);
    decode.instrument(info_span!("decode")).await
}

/// Media as their encoder described them; it keeps their rows for as long as it is listened to.
#[derive(Default)]
struct Encoded {
    items: Vec<Item>,
    conversation: Option<Conversation>,
}

async fn encode(shared: &Shared, encoder: &Instance, attempt: &Attempt<'_>) -> Result<Encoded> {
    let request = Request::Run(Box::new(attempt.run(Stages::of(&[Stage::Encode]))));
    let mut conversation = begin(shared, encoder, &request, attempt);
    let mut items: Vec<Option<Item>> = vec![None; attempt.request.media.len()];
    while items.iter().any(Option::is_none) {
        let reply = conversation.next(attempt.time_left()).await?;
        match reply {
            Some(Reply::Described { item_idx, item }) if (item_idx as usize) < items.len() => {
                items[item_idx as usize] = Some(item);
            }
            Some(other) => return Err(out_of_place(&other)),
            None => return Err(ended_too_soon()),
        }
    }
    let items = items.into_iter().flatten().collect();
    Ok(Encoded { items, conversation: Some(conversation) })
}

/// A prompt whose KV is leased for as long as prefill is listened to.
struct Prefilled {
    items: Vec<Item>,
    handoff: KvHandoff,
    conversation: Conversation,
}

/// Runs the prompt; gives the handoff to decode, or nothing when all choices have ended.
async fn prefill(
    shared: &Shared,
    route: &Route,
    attempt: &Attempt<'_>,
    mut items: Vec<Item>,
    progress: &mut Progress,
) -> Result<Option<Prefilled>> {
    let stages = route.stages_at_prefill(!attempt.request.media.is_empty());
    let run = Run { items: items.clone(), ..attempt.run(stages) };
    let request = Request::Run(Box::new(run));
    let mut conversation = begin(shared, &route.prefill, &request, attempt);
    while let Some(reply) = next(shared, &mut conversation, attempt, progress).await? {
        match reply {
            // It encodes as well, and describes the media in order.
            Reply::Described { item, .. } => items.push(item),
            Reply::Handoff(handoff) => {
                return Ok(Some(Prefilled { items, handoff, conversation }));
            }
            other => relay(other, progress).await?,
        }
    }
    Ok(None)
}

/// Generates from the handoff; prefill is let go as soon as its blocks have arrived.
async fn decode(
    shared: &Shared,
    decoder: &Instance,
    attempt: &Attempt<'_>,
    prefilled: Prefilled,
    progress: &mut Progress,
) -> Result<()> {
    let without_rows = |item: Item| Item { rows: None, ..item };
    let run = Run {
        items: prefilled.items.into_iter().map(without_rows).collect(),
        kv: Some(prefilled.handoff),
        ..attempt.run(Stages::of(&[Stage::Decode]))
    };
    let request = Request::Run(Box::new(run));
    let deadline = shared.config.idle_stream_deadline;
    let messaging = &*shared.planes.messaging;
    let mut conversation = Conversation::begin(messaging, &decoder.address, &request, deadline);
    let mut lender = Some(prefilled.conversation);
    while let Some(reply) = conversation.next(deadline).await? {
        match reply {
            Reply::Pulled => drop(lender.take()),
            other => relay(other, progress).await?,
        }
    }
    Ok(())
}

fn begin(
    shared: &Shared,
    instance: &Instance,
    request: &Request,
    attempt: &Attempt<'_>,
) -> Conversation {
    let messaging = &*shared.planes.messaging;
    Conversation::begin(messaging, &instance.address, request, attempt.time_left())
}

/// The next reply: by the first token's deadline until there is one, then by the idle deadline.
async fn next(
    shared: &Shared,
    conversation: &mut Conversation,
    attempt: &Attempt<'_>,
    progress: &Progress,
) -> Result<Option<Reply>> {
    let idle = shared.config.idle_stream_deadline;
    let deadline = if progress.has_begun() { idle } else { attempt.time_left() };
    conversation.next(deadline).await
}

async fn relay(reply: Reply, progress: &mut Progress) -> Result<()> {
    match reply {
        Reply::Admitted { prompt_tokens, cached_tokens } => {
            progress.admit(prompt_tokens, cached_tokens).await
        }
        Reply::Tokens { choice, tokens } => progress.add(choice, tokens).await,
        Reply::Finished { choice, reason } => progress.finish(choice, reason).await,
        Reply::Preempted { choice } => progress.preempt(choice),
        Reply::Described { .. }
        | Reply::Handoff(_)
        | Reply::Pulled
        | Reply::Rows { .. }
        | Reply::Card(_) => Err(out_of_place(&reply)),
    }
}
