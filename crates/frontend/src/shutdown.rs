//! The wish to stop, as everything that serves sees it.

use tokio::sync::watch;

/// Whether the process shall stop; clones see the same wish.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<bool>);

/// Says that the process shall stop; dropping it says so too.
#[derive(Debug)]
pub struct ShutdownTrigger(watch::Sender<bool>);

impl Shutdown {
    /// A wish that somebody else will have.
    pub fn new() -> (ShutdownTrigger, Self) {
        let (sender, receiver) = watch::channel(false);
        (ShutdownTrigger(sender), Self(receiver))
    }

    /// Resolves when it has begun.
    pub async fn begun(mut self) {
        // An error means that nobody is left to say so, which is the same.
        let _ = self.0.wait_for(|begun| *begun).await;
    }
}

impl ShutdownTrigger {
    /// Begins it.
    pub fn begin(&self) {
        self.0.send_replace(true);
    }
}
