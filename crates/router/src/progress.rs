//! How far the choices of a request have come, and what its reader has been told.

use planes::ReplySender;
use types::content::Digest;
use types::media::MediaItem;
use types::output::{FinishReason, GenerateEvent, OutputToken};
use types::{Error, ErrorKind, Result, TokenId};

/// The choices of one request.
pub(crate) struct Progress {
    out: ReplySender<GenerateEvent>,
    is_admitted: bool,
    /// The media as they were first described, in prompt order.
    media: Vec<Digest>,
    choices: Vec<Choice>,
}

#[derive(Default)]
struct Choice {
    tokens: Vec<TokenId>,
    state: State,
}

#[derive(Default, PartialEq, Eq, Clone, Copy)]
enum State {
    /// Nobody works on it: not yet, or whoever did gave it up or was lost.
    #[default]
    Waiting,
    Running,
    Finished,
}

/// What is to be run next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// All choices, from the beginning.
    All,
    /// One choice, from where it was.
    Rest(u32),
}

impl Progress {
    pub(crate) fn new(n_choices: u32, out: ReplySender<GenerateEvent>) -> Self {
        let choices = (0..n_choices).map(|_| Choice::default()).collect();
        Self { out, is_admitted: false, media: Vec::new(), choices }
    }

    /// Remembers what the next medium is; when a request is encoded again, it must be the same.
    ///
    /// Errors: it has changed since, so that the answer would go on about something else.
    pub(crate) fn recognise(&mut self, medium_idx: usize, item: &MediaItem) -> Result<()> {
        match self.media.get(medium_idx) {
            None => self.media.push(item.digest),
            Some(known) if *known == item.digest => {}
            Some(_) => {
                let message = "the medium was needed again, and had changed meanwhile";
                return Err(Error::new(ErrorKind::MediaOrigin, message));
            }
        }
        Ok(())
    }

    /// Tells the reader once; when a request is prefilled again it has been told already.
    pub(crate) async fn admit(&mut self, prompt_tokens: u32, cached_tokens: u32) -> Result<()> {
        if std::mem::replace(&mut self.is_admitted, true) {
            return Ok(());
        }
        self.out.send(GenerateEvent::Admitted { prompt_tokens, cached_tokens }).await
    }

    pub(crate) async fn add(&mut self, choice: u32, tokens: Vec<OutputToken>) -> Result<()> {
        let known = self.choice(choice)?;
        known.tokens.extend(tokens.iter().map(|token| token.token));
        self.out.send(GenerateEvent::Tokens { choice, tokens }).await
    }

    pub(crate) async fn finish(&mut self, choice: u32, reason: FinishReason) -> Result<()> {
        self.choice(choice)?.state = State::Finished;
        self.out.send(GenerateEvent::Finished { choice, reason }).await
    }

    pub(crate) fn preempt(&mut self, choice: u32) -> Result<()> {
        self.choice(choice)?.state = State::Waiting;
        Ok(())
    }

    /// Whether the first token of any choice is out.
    pub(crate) fn has_begun(&self) -> bool {
        self.choices.iter().any(|choice| !choice.tokens.is_empty())
    }

    /// What must be prefilled next, counted as running from now on.
    pub(crate) fn next_turn(&mut self) -> Option<Turn> {
        let is_untouched =
            |choice: &Choice| choice.state == State::Waiting && choice.tokens.is_empty();
        if self.choices.iter().all(is_untouched) {
            self.choices.iter_mut().for_each(|choice| choice.state = State::Running);
            return Some(Turn::All);
        }
        let is_waiting = |choice: &Choice| choice.state == State::Waiting;
        let idx = self.choices.iter().position(is_waiting)?;
        self.choices[idx].state = State::Running;
        Some(Turn::Rest(idx as u32))
    }

    /// Whoever worked on the running choices is lost.
    pub(crate) fn lose_running(&mut self) {
        let running = self.choices.iter_mut().filter(|choice| choice.state == State::Running);
        running.for_each(|choice| choice.state = State::Waiting);
    }

    /// The tokens of a choice so far.
    pub(crate) fn tokens(&self, choice: u32) -> &[TokenId] {
        &self.choices[choice as usize].tokens
    }

    /// Whether somebody works on a choice.
    pub(crate) fn is_any_running(&self) -> bool {
        self.choices.iter().any(|choice| choice.state == State::Running)
    }

    /// Errors: a stream of replies ended while a choice was running.
    pub(crate) fn check_none_lost(&self) -> Result<()> {
        if self.is_any_running() {
            return Err(ended_too_soon());
        }
        Ok(())
    }

    fn choice(&mut self, choice: u32) -> Result<&mut Choice> {
        let unknown = || Error::internal("a worker answered for a choice that was not asked for");
        let found = self.choices.get_mut(choice as usize).ok_or_else(unknown)?;
        if found.state == State::Finished {
            return Err(Error::internal("a worker went on with a choice that had ended"));
        }
        Ok(found)
    }
}

/// The error for a stream of replies that ended before its work was done.
pub(crate) fn ended_too_soon() -> Error {
    Error::new(ErrorKind::PeerLost, "a worker ended its answer too soon")
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;
    use planes::reply_stream;
    use types::media::{Grid, MediaKind};

    fn token(token: TokenId) -> OutputToken {
        OutputToken { token, logprob: None, top_logprobs: Vec::new() }
    }

    #[test]
    fn a_medium_stays_what_it_was() {
        let item = |byte| MediaItem {
            kind: MediaKind::Image,
            digest: Digest([byte; 32]),
            grid: Grid::default(),
            n_tokens: 1,
        };
        let mut stream = reply_stream(|out| async move {
            let mut progress = Progress::new(1, out);
            progress.recognise(0, &item(1))?;
            progress.recognise(1, &item(2))?;
            progress.recognise(0, &item(1))?;
            let changed = progress.recognise(1, &item(3)).unwrap_err();
            assert_eq!(changed.kind, ErrorKind::MediaOrigin);
            Ok(())
        });
        futures::executor::block_on(async {
            while stream.next().await.transpose().unwrap().is_some() {}
        });
    }

    /// Two choices, of which the first is lost after a token and the second before.
    #[test]
    fn what_was_lost_is_taken_up_where_it_was() {
        let mut stream = reply_stream(|out| async move {
            let mut progress = Progress::new(2, out);
            assert_eq!(progress.next_turn(), Some(Turn::All));
            assert!(progress.check_none_lost().is_err());
            progress.lose_running();
            assert_eq!(progress.next_turn(), Some(Turn::All), "nothing was out yet");
            progress.add(0, vec![token(5)]).await?;
            progress.lose_running();
            assert_eq!(progress.next_turn(), Some(Turn::Rest(0)));
            assert_eq!(progress.tokens(0), [5]);
            progress.finish(0, FinishReason::Stop).await?;
            assert!(progress.add(0, vec![token(6)]).await.is_err(), "it has ended");
            assert_eq!(progress.next_turn(), Some(Turn::Rest(1)));
            progress.finish(1, FinishReason::Stop).await?;
            assert_eq!(progress.next_turn(), None);
            progress.check_none_lost()
        });
        futures::executor::block_on(async {
            while stream.next().await.transpose().unwrap().is_some() {}
        });
    }
}
