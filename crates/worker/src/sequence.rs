//! A sequence in the engine, as the stages that run it see it: events in, replies out.

use crate::worker::Shared;
use engine::{Engine, SeqEvent, SeqSink};
use planes::ReplySender;
use tokio::sync::mpsc;
use types::media::MediaItem;
use types::output::OutputToken;
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

/// The events of one sequence. Their number is bounded by its tokens, so the queue needs no bound.
pub(crate) struct Events {
    receiver: mpsc::UnboundedReceiver<SeqEvent>,
    /// An event that was taken from the queue and is not returned yet.
    ahead: Option<SeqEvent>,
}

/// A sink for the engine, and what comes through it.
pub(crate) fn events() -> (SeqSink, Events) {
    let (sender, receiver) = mpsc::unbounded_channel();
    // The call may have ended before the engine learns of it.
    let sink = Box::new(move |event| drop(sender.send(event)));
    (sink, Events { receiver, ahead: None })
}

impl Events {
    /// The next event; tokens of one choice that have queued up come together. Nothing is lost when
    /// the wait is given up: an event stays here until it is returned.
    ///
    /// Errors: the engine let go of the sequence.
    pub(crate) async fn next(&mut self) -> Result<SeqEvent> {
        let lost = || Error::internal("the engine dropped a sequence");
        if self.ahead.is_none() {
            self.ahead = Some(self.receiver.recv().await.ok_or_else(lost)?);
        }
        if matches!(self.ahead, Some(SeqEvent::Tokens { .. })) {
            // Under load others run now, and more tokens may come to go in one message.
            tokio::task::yield_now().await;
        }
        Ok(match self.ahead.take().ok_or_else(lost)? {
            SeqEvent::Tokens { choice, tokens } => self.gather(choice, tokens),
            other => other,
        })
    }

    /// Adds the tokens of the same choice that are there already.
    fn gather(&mut self, choice: u32, mut tokens: Vec<OutputToken>) -> SeqEvent {
        while let Ok(event) = self.receiver.try_recv() {
            match event {
                SeqEvent::Tokens { choice: same, tokens: more } if same == choice => {
                    tokens.extend(more);
                }
                other => {
                    self.ahead = Some(other);
                    break;
                }
            }
        }
        SeqEvent::Tokens { choice, tokens }
    }
}

/// Follows the choices of a call until all have ended.
pub(crate) struct Choices {
    n_running: usize,
}

impl Choices {
    pub(crate) fn new(n_choices: usize) -> Self {
        Self { n_running: n_choices }
    }

    pub(crate) fn all_ended(&self) -> bool {
        self.n_running == 0
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
                self.n_running -= 1;
                replies.send(Reply::Finished { choice, reason }).await
            }
            SeqEvent::Preempted { choice } => {
                self.n_running -= 1;
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
    let mut prompt = expand(asked, &shared.placeholders, items)?;
    prompt.tokens.extend_from_slice(answered);
    Ok(prompt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::{Context, Poll, Waker};
    use types::output::FinishReason;

    fn token(token: u32) -> SeqEvent {
        let token = OutputToken { token, logprob: None, top_logprobs: Vec::new() };
        SeqEvent::Tokens { choice: 0, tokens: vec![token] }
    }

    #[tokio::test]
    async fn a_wait_that_is_given_up_loses_no_token() {
        let (mut sink, mut events) = events();
        sink(token(1));
        {
            let mut given_up = std::pin::pin!(events.next());
            let mut context = Context::from_waker(Waker::noop());
            let polled = given_up.as_mut().poll(&mut context);
            assert!(matches!(polled, Poll::Pending), "it lets others run first");
        }
        sink(token(2));
        sink(SeqEvent::Finished { choice: 0, reason: FinishReason::Stop });
        let SeqEvent::Tokens { tokens, .. } = events.next().await.unwrap() else {
            panic!("the tokens come before the end");
        };
        assert_eq!(tokens.iter().map(|token| token.token).collect::<Vec<_>>(), [1, 2]);
        assert!(matches!(events.next().await, Ok(SeqEvent::Finished { .. })));
    }
}
