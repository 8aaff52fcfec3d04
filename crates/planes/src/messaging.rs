//! Requests and streams of answers.
//!
//! Dropping the stream of answers cancels the handler on the other side. A reply is handed over
//! only when there is room for it ([`CREDITS`] unread ones at most), so a slow reader slows the
//! handler.

use crate::withdraw::Withdraw;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use std::sync::Arc;
use std::time::Duration;
use types::Result;

/// Replies that may be under way unread before the handler has to wait.
pub const CREDITS: usize = 64;

/// Largest body of a call or reply, in bytes; anything larger goes by reference over the transport.
pub const N_BODY_BYTES_MAX: usize = 512 * 1024;

/// Where a handler is reached (`dynamo.backend.generate.<instance>`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(pub String);

/// A request to a handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The first reply must come within this time, or the call ends with a timeout.
    pub deadline: Duration,
    /// W3C trace context, empty when there is none.
    pub trace: String,
    /// The message; at most [`N_BODY_BYTES_MAX`].
    pub body: Bytes,
}

/// The answers to a call, in order; an error is the last of them.
pub type Replies = BoxStream<'static, Result<Bytes>>;

/// Answers calls.
pub trait Handler: Send + Sync {
    /// Starts answering; dropping the stream abandons the work.
    fn handle(&self, call: Call) -> Replies;
}

/// The carrier of calls.
pub trait Messaging: Send + Sync {
    /// Calls the handler at `address`. Errors arrive as the stream's last item: nobody there
    /// (`Unavailable`), no first reply in time (`Timeout`), lost on the way (`PeerLost`), a body
    /// over the limit (`TooLarge`), or the handler's own.
    fn call(&self, address: &Address, call: Call) -> Replies;

    /// Answers calls to `address` until the returned promise is dropped. Calls already running go
    /// on, new ones are `Unavailable`, and the address may be served again at once.
    fn serve(
        &self,
        address: &Address,
        handler: Arc<dyn Handler>,
    ) -> BoxFuture<'static, Result<Withdraw>>;
}
