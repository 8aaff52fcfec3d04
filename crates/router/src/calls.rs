//! A call to a worker in our own types: [`Request`] out, [`Reply`]s in, each with a deadline.

use futures::{FutureExt, StreamExt};
use planes::{Address, Call, Messaging, Replies};
use std::time::Duration;
use tokio::time::timeout;
use types::{Error, ErrorKind, Result};
use wire::message::{Reply, Request};

/// The replies of one call; dropping it cancels the work.
pub(crate) struct Conversation(Replies);

/// How a call is made.
pub(crate) struct Terms<'a> {
    /// The first reply must come within this time.
    pub(crate) deadline: Duration,
    /// W3C trace context, empty when there is none.
    pub(crate) trace: &'a str,
}

impl Conversation {
    /// Calls the worker at `address`.
    pub(crate) fn begin(
        messaging: &dyn Messaging,
        address: &Address,
        request: &Request,
        terms: Terms<'_>,
    ) -> Self {
        let body = wire::encode_request(request);
        let Terms { deadline, trace } = terms;
        Self(messaging.call(address, Call { deadline, trace: trace.to_owned(), body }))
    }

    /// The next reply, `None` at the end. Errors: the worker's own, or none came within `deadline`.
    pub(crate) async fn next(&mut self, deadline: Duration) -> Result<Option<Reply>> {
        let late = |_| Error::new(ErrorKind::Timeout, "a worker did not answer in time");
        let reply = timeout(deadline, self.0.next()).await.map_err(late)?;
        reply.map(|bytes| wire::decode_reply(bytes?)).transpose()
    }

    /// Like `next`, but only what is there already: `None` when there is nothing yet.
    pub(crate) fn next_now(&mut self) -> Option<Result<Option<Reply>>> {
        let reply = self.0.next().now_or_never()?;
        Some(reply.map(|bytes| wire::decode_reply(bytes?)).transpose())
    }
}

/// Whether a call failed because its worker is gone, so that another one may do the work.
pub(crate) fn is_lost(failure: &Error) -> bool {
    matches!(failure.kind, ErrorKind::PeerLost | ErrorKind::Unavailable)
}

/// The error for a reply that does not belong where it came.
pub(crate) fn out_of_place(reply: &Reply) -> Error {
    let name = match reply {
        Reply::Described { .. } => "described",
        Reply::Admitted { .. } => "admitted",
        Reply::Tokens { .. } => "tokens",
        Reply::Finished { .. } => "finished",
        Reply::Handoff(_) => "handoff",
        Reply::Reserved => "reserved",
        Reply::Pulled => "pulled",
        Reply::Stranded { .. } => "stranded",
        Reply::Preempted { .. } => "preempted",
        Reply::Rows { .. } => "rows",
        Reply::Card(_) => "card",
    };
    Error::internal(format!("a worker sent `{name}` where it has no place"))
}
