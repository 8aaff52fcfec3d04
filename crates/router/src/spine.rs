//! The way of a request through its stages: encode, prefill, decode.
//!
//! The same steps run whether the stages are in one process or in many: consecutive stages on one
//! instance are one call, and what passes between them does not travel. Each stage's conversation
//! is kept until the next one has what it needs of it; dropping it releases everything behind it.

use crate::attempt::Attempt;
use crate::losses::Losses;
use crate::passage::{Failure, Passage, Passed};
use crate::places::Place;
use crate::progress::{Progress, Turn};
use crate::router::Shared;
use planes::ReplySender;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{Instrument, debug_span};
use types::Result;
use types::output::GenerateEvent;
use types::request::GenerateRequest;

/// How much longer than the first token's deadline media stay lent, so that the deadline ends
/// first.
const LEND_MARGIN: Duration = Duration::from_secs(5);

/// Runs a request; what it yields goes to `out`. Returning early cancels whatever is under way.
///
/// Decode gives a choice up when it runs out of blocks, and a worker may be lost: then whatever has
/// not ended is prefilled again, with its answer so far as part of the prompt.
pub(crate) async fn generate(
    shared: Arc<Shared>,
    request: GenerateRequest,
    out: ReplySender<GenerateEvent>,
) -> Result<()> {
    let started = Instant::now();
    let place = shared.places.enter(request.id);
    let mut progress = Progress::new(request.sampling.n, out);
    let mut losses = Losses::default();
    while let Some(turn) = progress.next_turn() {
        let lent =
            shared.lender.lend(&request.media, request.first_token_deadline + LEND_MARGIN)?;
        let attempt = match turn {
            Turn::All => Attempt::first(&request, &lent, started),
            Turn::Rest(choice) => Attempt::again(&request, &lent, choice, progress.tokens(choice)),
        };
        match run_stages(&shared, attempt, (&place, &losses), &mut progress).await {
            Err(Failure::Lost(loss)) => {
                losses.add(loss)?;
                progress.lose_running();
            }
            Err(Failure::Other(failure)) => return Err(failure),
            Ok(()) => progress.check_none_lost()?,
        }
    }
    Ok(())
}

async fn run_stages(
    shared: &Shared,
    attempt: Attempt<'_>,
    (place, losses): (&Place, &Losses),
    progress: &mut Progress,
) -> Passed<()> {
    let n_media = attempt.request.media.len();
    let plan = || {
        let (model, card) = (&attempt.request.model, attempt.request.card);
        let route = shared.members.route((model, card), n_media, |id| losses.has(id));
        route.map_err(|missing| losses.explain(missing))
    };
    let (route, counted) = debug_span!("plan").in_scope(plan)?;
    let passage = Passage { shared, attempt, place, route };
    let encoded = passage.encode().await?;
    for (medium_idx, item) in encoded.items.iter().enumerate() {
        passage.recognise(medium_idx, item, progress)?;
    }
    let reserved = passage.reserve(&encoded.items).await?;
    let prefill = passage.prefill(encoded.items, reserved, progress);
    let prefilled = prefill.instrument(debug_span!("prefill")).await?;
    // Prefill holds its own copy of the rows by now.
    drop((encoded.conversations, counted.encode));
    let Some(prefilled) = prefilled else { return Ok(()) };
    passage.decode(prefilled, progress).instrument(debug_span!("decode")).await
}
