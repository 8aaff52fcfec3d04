//! Serving, draining, cancelled: the life of a server, as its requests see it.

use tokio::sync::watch;

/// Where a server is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Requests are taken.
    Serving,
    /// No new connections; requests at work may finish.
    Draining,
    /// Requests still at work fail now.
    Cancelled,
}

/// A view of the phase.
#[derive(Clone)]
pub(crate) struct Phases(watch::Receiver<Phase>);

impl Phases {
    /// Who sets the phase, and a view of it.
    pub(crate) fn start() -> (watch::Sender<Phase>, Self) {
        let (sender, receiver) = watch::channel(Phase::Serving);
        (sender, Self(receiver))
    }

    pub(crate) fn now(&self) -> Phase {
        *self.0.borrow()
    }

    /// Resolves when requests shall end. Also when nobody is left to say so.
    pub(crate) async fn cancelled(&mut self) {
        // An error means that the server has gone, which is the same.
        let _ = self.0.wait_for(|phase| *phase == Phase::Cancelled).await;
    }
}
