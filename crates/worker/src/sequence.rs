//! A sequence in the engine, as the stages that run it see it: replies made of its events (which
//! come by `events`), and everything of it taken back.

use crate::worker::Shared;
use engine::{Engine, SeqEvent};
use planes::ReplySender;
use types::media::MediaItem;
use types::prompt::{ExpandedPrompt, expand};
use types::{Error, RequestId, Result};
use wire::message::{Reply, Run};

/// Takes everything of a call back from the engine when the call ends, whatever the reason.
pub(crate) struct AbortOnDrop {
    engine: Engine,
    id: RequestId,
    is_armed: bool,
}

impl AbortOnDrop {
    /// Guards everything of `id`.
    pub(crate) fn request(engine: &Engine, id: RequestId) -> Self {
        Self { engine: engine.clone(), id, is_armed: true }
    }

    /// Leaves the work alone from now on.
    pub(crate) fn disarm(mut self) {
        self.is_armed = false;
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        if self.is_armed {
            self.engine.abort(self.id);
            // No transfer of this call touches its blocks any more: the guard goes with them.
            self.engine.release(self.id);
        }
    }
}

/// Follows the choices of a call until all have ended.
pub(crate) struct Choices {
    running: Vec<u32>,
}

impl Choices {
    pub(crate) fn new(running: impl IntoIterator<Item = u32>) -> Self {
        Self { running: running.into_iter().collect() }
    }

    pub(crate) fn all_ended(&self) -> bool {
        self.running.is_empty()
    }

    /// Has the caller prefill again all that have not ended.
    pub(crate) async fn hand_back(&mut self, replies: &mut ReplySender<Reply>) -> Result<()> {
        for choice in std::mem::take(&mut self.running) {
            replies.send(Reply::Preempted { choice }).await?;
        }
        Ok(())
    }

    /// Passes tokens and ends on. Errors: an event that has no place here, or its failure.
    pub(crate) async fn relay(
        &mut self,
        event: SeqEvent,
        replies: &mut ReplySender<Reply>,
    ) -> Result<()> {
        match event {
            SeqEvent::Tokens { choice, tokens } => {
                replies.send(Reply::Tokens { choice, tokens }).await
            }
            SeqEvent::Finished { choice, reason } => {
                self.running.retain(|running| *running != choice);
                replies.send(Reply::Finished { choice, reason }).await
            }
            SeqEvent::Preempted { choice } => {
                self.running.retain(|running| *running != choice);
                replies.send(Reply::Preempted { choice }).await
            }
            SeqEvent::Failed(failure) => Err(failure),
            SeqEvent::Pinned { .. } | SeqEvent::Exported { .. } | SeqEvent::ImportReady { .. } => {
                Err(Error::internal("the engine reported a step that has no place here"))
            }
        }
    }
}

/// The whole prompt of a call. The part that is already answer is taken as it is: a placeholder
/// token that the model itself produced stands for no medium.
pub(crate) fn expand_prompt(
    shared: &Shared,
    run: &Run,
    items: &[MediaItem],
) -> Result<ExpandedPrompt> {
    let n_asked = run.prompt.len().checked_sub(run.n_answered as usize);
    let n_asked = n_asked.ok_or_else(|| Error::internal("more answer than prompt"))?;
    let (asked, answered) = run.prompt.split_at(n_asked);
    let kv = shared.engine.kv();
    let n_tokens_max = kv.n_blocks * kv.layout.block_size;
    let mut prompt = expand(asked, &shared.placeholders, items, n_tokens_max)?;
    prompt.tokens.extend_from_slice(answered);
    Ok(prompt)
}
