//! Room that a decode worker promises to a prompt which is still on its way to it.

use crate::calls::{Conversation, out_of_place};
use crate::progress::ended_too_soon;
use std::time::Duration;
use types::Result;
use wire::message::Reply;

/// Room asked for, and promised for as long as this lives.
pub(crate) struct Reservation {
    conversation: Conversation,
    is_granted: bool,
}

impl Reservation {
    /// What a `Reserve` call has begun.
    pub(crate) fn ask(conversation: Conversation) -> Self {
        Self { conversation, is_granted: false }
    }

    /// Waits for the promise. Errors: the worker's own, or none came within `deadline`.
    pub(crate) async fn granted(&mut self, deadline: Duration) -> Result<()> {
        if self.is_granted {
            return Ok(());
        }
        match self.conversation.next(deadline).await? {
            Some(Reply::Reserved) => self.is_granted = true,
            Some(other) => return Err(out_of_place(&other)),
            None => return Err(ended_too_soon()),
        }
        Ok(())
    }
}
