//! Where strangers come in: a listener that is left alone for a while when it cannot be served.

use crate::limits::{ACCEPT_PAUSE, N_STRANGERS_MAX};
use crate::pairing;
use crate::shared::Shared;
use crate::system::Watched;
use std::io::ErrorKind::{ConnectionAborted, Interrupted, WouldBlock};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// See the file's description.
pub(super) struct Door {
    listener: TcpListener,
    /// Set while it is of no use to know that somebody knocks.
    closed_until: Option<Instant>,
}

impl Door {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self { listener, closed_until: None }
    }

    /// What to wait for, and for how long of `at_most`.
    pub(super) fn watched(&mut self, at_most: Option<Duration>) -> (Watched, Option<Duration>) {
        if let Some(until) = self.closed_until {
            let left = until.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                return (Watched::NOTHING, Some(at_most.map_or(left, |time| time.min(left))));
            }
            self.closed_until = None;
        }
        (Watched::reading(self.listener.as_raw_fd()), at_most)
    }

    /// Lets in who has knocked. Where that fails (no descriptors are left, say), they would be
    /// found knocking again at once, so nobody is listened to for a while.
    pub(super) fn open(&mut self, shared: &Arc<Shared>) {
        for _ in 0..N_STRANGERS_MAX {
            match self.listener.accept() {
                Ok((stream, _)) => pairing::receive(shared, stream),
                Err(why) if [ConnectionAborted, Interrupted, WouldBlock].contains(&why.kind()) => {
                    return;
                }
                Err(why) => {
                    tracing::warn!("peers cannot be let in over UCX: {why}");
                    self.closed_until = Some(Instant::now() + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }
}
