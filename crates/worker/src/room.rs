//! Embedding memory for rows: all that a request needs at once, or none yet.
//!
//! Who waits for memory holds none that somebody else waits for, so nobody can block each other:
//! prefill takes memory for all the rows it lacks before it asks for the first, and an encoder
//! takes memory for rows that nobody has asked for only while there is plenty.

use std::sync::Arc;
use std::time::Duration;
use tensor::{Slab, SlabRange};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};
use types::{Error, ErrorKind, Result};

/// How often to look for room: while somebody waits, a range is freed whenever a prompt's last
/// chunk ends.
const POLL: Duration = Duration::from_millis(1);

/// Rows that nobody has asked for take at most one part in so many of the memory.
const AHEAD_DIVISOR: usize = 2;

/// The embedding memory of a worker, handed out in order of arrival.
pub(crate) struct Room {
    slab: Arc<Slab>,
    /// Held by whoever is next; the others wait behind it, first come, first served.
    turn: Mutex<()>,
}

impl Room {
    pub(crate) fn new(slab: Arc<Slab>) -> Self {
        Self { slab, turn: Mutex::new(()) }
    }

    /// Ranges of all these sizes, in bytes, within `patience`.
    ///
    /// Errors: more than there will ever be (`TooLarge`), or none became free (`Overloaded`).
    pub(crate) async fn all(&self, sizes: &[usize], patience: Duration) -> Result<Vec<SlabRange>> {
        if !self.slab.could_hold(sizes.iter().copied()) {
            let message = "the media of this request need more than all embedding memory";
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        let full = |_| Error::new(ErrorKind::Overloaded, "no embedding memory became free");
        timeout(patience, self.wait_for(sizes)).await.map_err(full)
    }

    /// A range for rows that nobody has asked for yet; `None` when memory is not plentiful.
    pub(crate) fn ahead(&self, n_bytes: usize) -> Option<SlabRange> {
        let _nobody_waits = self.turn.try_lock().ok()?;
        let limit = self.slab.arena().n_bytes() / AHEAD_DIVISOR;
        let is_plentiful = self.slab.n_bytes_used() + n_bytes <= limit;
        is_plentiful.then(|| self.slab.alloc(n_bytes)).flatten()
    }

    async fn wait_for(&self, sizes: &[usize]) -> Vec<SlabRange> {
        let _turn = self.turn.lock().await;
        let mut awaiting = None;
        loop {
            let ranges: Option<Vec<_>> = sizes.iter().map(|&size| self.slab.alloc(size)).collect();
            if let Some(ranges) = ranges {
                return ranges;
            }
            awaiting.get_or_insert_with(|| self.slab.await_range());
            sleep(POLL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tensor::Arena;

    const LONG: Duration = Duration::from_secs(60);

    fn room(n_bytes: usize) -> Room {
        Room::new(Slab::new(Arena::host(n_bytes).unwrap()))
    }

    #[tokio::test]
    async fn all_or_nothing() {
        let room = room(640);
        let held = room.all(&[128, 128], LONG).await.unwrap();
        let soon = Duration::from_millis(20);
        let refused = room.all(&[256, 256], soon).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Overloaded);
        assert_eq!(room.slab.n_bytes_used(), 256, "nothing is kept of an attempt");
        drop(held);
        assert_eq!(room.all(&[256, 256], LONG).await.unwrap().len(), 2);
        assert_eq!(room.all(&[640, 1], LONG).await.unwrap_err().kind, ErrorKind::TooLarge);
    }

    #[tokio::test]
    async fn rows_that_nobody_asked_for_leave_half() {
        let room = room(640);
        let first = room.ahead(256);
        assert!(first.is_some());
        assert!(room.ahead(128).is_none());
        assert_eq!(room.all(&[384], LONG).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn crossing_requests_all_get_their_turn() {
        let room = Arc::new(room(640));
        let ask = |sizes: [usize; 2]| {
            let room = Arc::clone(&room);
            tokio::spawn(async move {
                for _ in 0..50 {
                    let held = room.all(&sizes, LONG).await.unwrap();
                    tokio::task::yield_now().await;
                    drop(held);
                }
            })
        };
        for asked in [ask([320, 320]), ask([64, 512]), ask([512, 64]), ask([128, 128])] {
            asked.await.unwrap();
        }
        assert_eq!(room.slab.n_bytes_used(), 0);
    }
}
