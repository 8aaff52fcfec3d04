//! The decode stage alone: pull the KV blocks that are not here, join the running batch, stream.

use crate::cancelled::counting_cancellation;
use crate::events::{Events, events};
use crate::prefill::{block_root, layout};
use crate::pull;
use crate::sequence::{AbortOnDrop, Choices, expand_prompt};
use crate::worker::Shared;
use engine::{ImportRequest, SeqEvent};
use planes::{ReplySender, random};
use tracing::{Instrument, debug_span};
use types::media::MediaItem;
use types::stage::Stage;
use types::{Error, Result};
use wire::message::{KvHandoff, Reply, Run};

/// Goes on with the choices of a request whose prompt somebody else has run.
pub(crate) async fn run(shared: &Shared, run: Run, replies: &mut ReplySender<Reply>) -> Result<()> {
    let work = generate(shared, run, replies);
    counting_cancellation(&shared.recorder, Stage::Decode, work).await
}

async fn generate(shared: &Shared, mut run: Run, replies: &mut ReplySender<Reply>) -> Result<()> {
    let handoff = run.kv.take().ok_or_else(|| Error::internal("decode came without KV"))?;
    let id = random::request_id();
    let request = import_request(shared, &run, &handoff, id)?;
    let (sink, mut events) = events();
    let guard = AbortOnDrop::request(&shared.engine, id);
    let _running = shared.running.begin(run.id, id);
    shared.engine.import(request, sink)?;
    let missing = match events.next().await? {
        SeqEvent::ImportReady { missing } => missing,
        SeqEvent::Failed(failure) => return Err(failure),
        SeqEvent::Pinned { .. }
        | SeqEvent::Tokens { .. }
        | SeqEvent::Finished { .. }
        | SeqEvent::Exported { .. }
        | SeqEvent::Preempted { .. } => {
            return Err(Error::internal("the engine did not begin with the import"));
        }
    };
    let from = (handoff.handle, handoff.transfer_time);
    let guard = pull::blocks(shared, from, &missing, guard).await?;
    shared.engine.imported(id);
    replies.send(Reply::Pulled).await?;
    let first = (run.first_choice..).zip(&handoff.first);
    let running = first.filter_map(|(choice, token)| token.is_some().then_some(choice));
    let followed = follow(Choices::new(running), &mut events, replies);
    followed.instrument(debug_span!("decode.run")).await?;
    // Of what has ended the engine keeps nothing.
    guard.disarm();
    Ok(())
}

async fn follow(
    mut choices: Choices,
    events: &mut Events,
    replies: &mut ReplySender<Reply>,
) -> Result<()> {
    while !choices.all_ended() {
        let event = events.next().await?;
        choices.relay(event, replies).await?;
    }
    Ok(())
}

fn import_request(
    shared: &Shared,
    run: &Run,
    handoff: &KvHandoff,
    id: types::RequestId,
) -> Result<ImportRequest> {
    if handoff.layout != layout(&shared.engine) {
        let (theirs, ours) = (&handoff.layout, layout(&shared.engine));
        return Err(Error::internal(format!(
            "the KV layouts of prefill and decode differ: {theirs:?} and {ours:?}"
        )));
    }
    let items: Vec<MediaItem> = run.items.iter().map(|item| item.item.clone()).collect();
    let prompt = expand_prompt(shared, run, &items)?;
    if prompt.tokens.len() != handoff.n_tokens || handoff.first.len() != run.sampling.n as usize {
        return Err(Error::internal("the KV handoff does not match its request"));
    }
    Ok(ImportRequest {
        id,
        prompt,
        sampling: run.sampling.clone(),
        block_root: block_root(shared, &run.cache_salt),
        priority: 0,
        first_choice: run.first_choice,
        n_answered: run.n_answered as usize,
        first_tokens: handoff.first.clone(),
        positions_delta: handoff.positions_delta,
    })
}
