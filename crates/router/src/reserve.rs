//! Room that a decode worker promises to a prompt which is still on its way to it.

use crate::calls::{Conversation, out_of_place};
use crate::progress::ended_too_soon;
use std::time::Duration;
use types::Result;
use wire::message::Reply;

/// Room asked for, and promised for as long as this lives; the worker takes its promise back when
/// nobody uses it for very long.
pub(crate) struct Reservation {
    conversation: Conversation,
    is_granted: bool,
}

impl Reservation {
    /// What a `Reserve` call has begun.
    pub(crate) fn ask(conversation: Conversation) -> Self {
        Self { conversation, is_granted: false }
    }

    /// Waits for the promise, and sees that it still holds. Errors: the worker's own, or no promise
    /// came within `deadline`.
    pub(crate) async fn granted(&mut self, deadline: Duration) -> Result<()> {
        let reply = match self.conversation.next_now() {
            None if self.is_granted => return Ok(()),
            None => self.conversation.next(deadline).await,
            Some(reply) => reply,
        };
        match reply? {
            Some(Reply::Reserved) if !self.is_granted => self.is_granted = true,
            Some(other) => return Err(out_of_place(&other)),
            None => return Err(ended_too_soon()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calls::Terms;
    use crate::scripted::{Script, Scripted};
    use planes::Address;
    use types::{Error, ErrorKind};
    use wire::message::Request;

    const LONG: Duration = Duration::from_secs(60);

    fn asked(said: Vec<Result<Reply>>) -> Reservation {
        let address = Address("d".into());
        let messaging = Scripted(move |_: &Address, _: &Request| Script::ends(said.clone()));
        let request = Request::Reserve { n_tokens: 1, n_choices: 1 };
        let terms = Terms { deadline: LONG, trace: "" };
        Reservation::ask(Conversation::begin(&messaging, &address, &request, terms))
    }

    #[tokio::test]
    async fn a_promise_that_was_taken_back_does_not_count() {
        let lapsed = Error::new(ErrorKind::Timeout, "nobody used the promised room");
        let cases = [(vec![Err(lapsed)], ErrorKind::Timeout), (vec![], ErrorKind::PeerLost)];
        for (afterwards, kind) in cases {
            let mut reservation = asked([vec![Ok(Reply::Reserved)], afterwards].concat());
            assert_eq!(reservation.granted(LONG).await, Ok(()));
            assert_eq!(reservation.granted(LONG).await.unwrap_err().kind, kind);
        }
        let twice = vec![Ok(Reply::Reserved), Ok(Reply::Reserved)];
        let mut reservation = asked(twice);
        assert_eq!(reservation.granted(LONG).await, Ok(()));
        assert_eq!(reservation.granted(LONG).await.unwrap_err().kind, ErrorKind::Internal);
    }
}
