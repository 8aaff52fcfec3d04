//! The exchange as the threads of a process share it: changed under a lock, its effects felt after.

use crate::exchange::{Effects, Exchange, Outgoing};
use crate::run::Run;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// The exchange, and the bell that calls the writer.
pub(crate) struct Shared {
    exchange: Mutex<Guarded>,
    bell: Notify,
}

struct Guarded {
    exchange: Exchange,
    /// Whether the writer has found nothing to write, so that the bell must be rung.
    is_writer_idle: bool,
}

/// Locks; a thread that panicked has left nothing half done that the next could not bear.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(exchange: Exchange) -> Arc<Self> {
        let exchange = Mutex::new(Guarded { exchange, is_writer_idle: false });
        Arc::new(Self { exchange, bell: Notify::new() })
    }

    /// Changes the exchange; then wakes whom that concerns, and starts handlers.
    pub(crate) fn with<T>(self: &Arc<Self>, change: impl FnOnce(&mut Exchange) -> T) -> T {
        let mut guard = lock(&self.exchange);
        let value = change(&mut guard.exchange);
        let Effects { wakers, starts } = std::mem::take(&mut guard.exchange.effects);
        let rings = guard.is_writer_idle && guard.exchange.has_waiting();
        guard.is_writer_idle &= !rings;
        drop(guard);
        if rings {
            self.bell.notify_one();
        }
        wakers.into_iter().for_each(std::task::Waker::wake);
        for start in starts {
            Run::spawn(Arc::clone(self), start);
        }
        value
    }

    /// Messages to write, as soon as there are any.
    pub(crate) async fn next_outgoing(self: &Arc<Self>) -> Outgoing {
        loop {
            if let Some(outgoing) = self.take_outgoing() {
                return outgoing;
            }
            self.bell.notified().await;
        }
    }

    /// Messages to write, if there are any; if not, the bell will ring.
    pub(crate) fn take_outgoing(self: &Arc<Self>) -> Option<Outgoing> {
        let mut guard = lock(&self.exchange);
        let outgoing = guard.exchange.take();
        guard.is_writer_idle = outgoing.is_none();
        let wakers = std::mem::take(&mut guard.exchange.effects.wakers);
        drop(guard);
        wakers.into_iter().for_each(std::task::Waker::wake);
        outgoing
    }
}
