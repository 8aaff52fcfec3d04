//! What a worker does with a call: run stages, wait for rows, or send its card.

use crate::terms::{Terms, lend_time, transfer_time};
use crate::worker::Shared;
use crate::{decode, encode, prefill};
use futures::StreamExt;
use planes::{Call, Handler, Replies, ReplySender, reply_stream};
use std::sync::Arc;
use tokio::time::timeout;
use tracing::{Instrument, debug_span};
use types::stage::{Stage, Stages};
use types::{Error, ErrorKind, Result};
use wire::message::{Reply, Request, Run};

/// A piece of a card, in bytes; well under the limit of a message.
const N_CARD_PIECE_BYTES: usize = 256 * 1024;

pub(crate) struct WorkerHandler(pub(crate) Arc<Shared>);

impl Handler for WorkerHandler {
    fn handle(&self, call: Call) -> Replies {
        let shared = Arc::clone(&self.0);
        let running = shared.calls.begin();
        let span = debug_span!("call", trace = %call.trace);
        let replies = reply_stream(move |replies| {
            let answer = async move {
                let _running = running;
                answer(shared, call, replies).await
            };
            answer.instrument(span)
        });
        replies.map(|reply| reply.map(|reply| wire::encode_reply(&reply))).boxed()
    }
}

async fn answer(shared: Arc<Shared>, call: Call, mut replies: ReplySender<Reply>) -> Result<()> {
    let terms = Terms::of(&call);
    let request = wire::decode_request(call.body)?;
    match run_request(&shared, request, &terms, &mut replies).await {
        // The caller must not take our peer's loss for our own.
        Err(Error { kind: ErrorKind::PeerLost, message, .. }) => {
            replies.send(Reply::Stranded { why: message }).await
        }
        ended => ended,
    }
}

async fn run_request(
    shared: &Shared,
    request: Request,
    terms: &Terms,
    replies: &mut ReplySender<Reply>,
) -> Result<()> {
    match request {
        Request::Run(run) => run_stages(shared, *run, terms, replies).await,
        Request::AwaitRows(ticket) => encode::lend_rows(shared, &ticket, replies).await,
        Request::FetchCard => send_card(shared, replies).await,
        Request::FinishChoice { request, choice } => {
            if let Some(id) = shared.running.find(request) {
                shared.engine.finish_choice(id, choice);
            }
            Ok(())
        }
        Request::Proceed { request } => {
            shared.waiting.proceed(request);
            Ok(())
        }
        Request::Reserve { n_tokens, n_choices } => {
            reserve(shared, (n_tokens as usize, n_choices as usize), terms, replies).await
        }
    }
}

/// Promises room for a prompt for as long as the caller keeps the stream: while prefill computes
/// it, and while its blocks are on their way.
async fn reserve(
    shared: &Shared,
    (n_tokens, n_choices): (usize, usize),
    terms: &Terms,
    replies: &mut ReplySender<Reply>,
) -> Result<()> {
    let _credit = shared.credits.promise(&shared.engine, n_tokens, n_choices).await?;
    replies.send(Reply::Reserved).await?;
    let layout = &shared.engine.kv().layout;
    let n_bytes = n_tokens.div_ceil(layout.block_size) * layout.block_bytes();
    let keep = terms.patience() + lend_time(transfer_time(shared.kv_transfer_deadline, n_bytes));
    let _ = timeout(keep, futures::future::pending::<()>()).await;
    Err(Error::new(ErrorKind::Timeout, "nobody used the promised room"))
}

async fn run_stages(
    shared: &Shared,
    run: Run,
    terms: &Terms,
    replies: &mut ReplySender<Reply>,
) -> Result<()> {
    if run.stages.has(Stage::Prefill) {
        prefill::run(shared, run, terms, replies).await
    } else if run.stages == Stages::of(&[Stage::Encode]) {
        encode::run(shared, run, terms, replies).await
    } else if run.stages == Stages::of(&[Stage::Decode]) {
        decode::run(shared, run, replies).await
    } else {
        Err(Error::internal("the stages of a call must be consecutive"))
    }
}

async fn send_card(shared: &Shared, replies: &mut ReplySender<Reply>) -> Result<()> {
    let mut card = wire::encode_card(&shared.card);
    while !card.is_empty() {
        let piece = card.split_to(card.len().min(N_CARD_PIECE_BYTES));
        replies.send(Reply::Card(piece)).await?;
    }
    Ok(())
}
