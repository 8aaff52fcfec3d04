//! How pairs end in the thread of UCX, and the thread itself.

use super::Core;
use crate::limits::SHUTDOWN_MAX;
use crate::pair::{Ending, Pair};
use std::time::Instant;
use ucx_sys::ucs_status_t;

impl Core {
    /// To be called when the connection of a pair is ready to read.
    pub(super) fn link_ended(&mut self, name: u64) {
        match self.pairs.get_mut(&name).map(Pair::ending) {
            Some(Ending::Farewell) => self.close(name, "it has closed the pair"),
            Some(Ending::Death) => self.died(name, "its process has ended"),
            None => {}
        }
    }

    /// Ends a pair whose peer has died or stands still. If that was in the middle of a transfer,
    /// all of UCX is begun anew, and reads from others begin again.
    ///
    /// Peers killed in the middle of transfers through shared memory left this behind now and then,
    /// with 1.13 and 1.22: a worker that received nothing more from anybody, or operations on the
    /// way to the dead peer that did not end. What exactly happens in UCX is not known; a new
    /// worker does neither.
    pub(super) fn died(&mut self, name: u64, why: &str) {
        let was_busy = self.pairs.get(&name).is_some_and(Pair::is_busy);
        self.close(name, why);
        if was_busy {
            self.is_spoilt = true;
        }
    }

    pub(super) fn failed(&mut self, endpoint: usize, status: ucs_status_t) {
        let found = self.pairs.iter().find(|(_, pair)| pair.endpoint.id() == endpoint);
        if let Some((name, _)) = found {
            let (name, why) = (*name, self.ops.worker.words(status));
            self.died(name, &why);
        }
    }

    /// Ends a pair. Memory of operations under way is kept until UCX has ended them.
    pub(super) fn close(&mut self, name: u64, why: &str) {
        let Some(pair) = self.pairs.remove(&name) else { return };
        tracing::debug!(why, "a pair over UCX was closed");
        self.closing_since.get_or_insert_with(Instant::now);
        let endpoint = pair.part(why);
        self.ops.close(endpoint, name);
    }

    pub(super) fn shut_down(mut self) {
        self.answers.tell_all();
        let names: Vec<u64> = self.pairs.keys().copied().collect();
        for name in names {
            self.close(name, "the transport was closed");
        }
        let give_up = Instant::now() + SHUTDOWN_MAX;
        while !self.ops.is_empty() && Instant::now() < give_up {
            self.turn();
        }
    }
}
