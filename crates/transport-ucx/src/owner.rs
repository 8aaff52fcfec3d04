//! What an owner does for one reader, as a state machine: it calls nothing and knows no clock.

use crate::limits::{N_PIECES_MAX, N_SERVED_MAX, OWNER_PATIENCE, PIECES_BYTES_MAX};
use crate::patience::Clock;
use crate::runs::{Outbox, Place};
use crate::wire::Request;
use planes::{LeaseTable, LeasedMemory, Region};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;
use types::{Error, ErrorKind, Result};

/// The reads that one reader has asked for.
pub(crate) struct Owner {
    /// The table it reads from.
    pub(crate) table: u128,
    serving: HashMap<u64, Serving>,
    /// Reads of which something is left to send, first come, first served.
    queue: VecDeque<u64>,
    n_pieces: usize,
    n_bytes: usize,
    last_progress: Instant,
}

struct Serving {
    memory: Arc<LeasedMemory>,
    outbox: Outbox,
    n_pieces: usize,
    /// None when nobody waits for it any more.
    outcome: Option<Result<()>>,
}

/// The next thing to send.
pub(crate) struct Piece {
    pub(crate) read: u64,
    pub(crate) place: Place,
    pub(crate) region: Region,
    pub(crate) pin: Arc<LeasedMemory>,
}

impl Owner {
    pub(crate) fn new(table: u128, now: Instant) -> Self {
        Self {
            table,
            serving: HashMap::new(),
            queue: VecDeque::new(),
            n_pieces: 0,
            n_bytes: 0,
            last_progress: now,
        }
    }

    /// Takes a request. Gives the reply if there is nothing to send.
    ///
    /// Errors: what to tell the reader.
    pub(crate) fn ask(
        &mut self,
        read: u64,
        request: &Request,
        table: Option<&LeaseTable>,
    ) -> Result<Option<Result<()>>> {
        if self.serving.len() >= N_SERVED_MAX || self.serving.contains_key(&read) {
            return Err(Error::new(ErrorKind::Overloaded, "too many reads at a time"));
        }
        let table = table.ok_or_else(|| crate::lost("it serves this memory no longer"))?;
        let memory = table.pin(request.lease, request.secret)?;
        let outbox = Outbox::fill(&memory, &request.segments)?;
        if outbox.is_empty() {
            return Ok(Some(Ok(())));
        }
        let outcome = Some(Ok(()));
        self.serving.insert(read, Serving { memory, outbox, n_pieces: 0, outcome });
        self.queue.push_back(read);
        Ok(None)
    }

    /// The next piece, if another may be on its way.
    pub(crate) fn next_piece(&mut self, now: Instant) -> Option<Piece> {
        while self.n_pieces < N_PIECES_MAX && self.n_bytes < PIECES_BYTES_MAX {
            let read = *self.queue.front()?;
            let next = self.serving.get_mut(&read).and_then(|serving| {
                let (place, region) = serving.outbox.next()?;
                serving.n_pieces += 1;
                Some(Piece { read, place, region, pin: Arc::clone(&serving.memory) })
            });
            let Some(piece) = next else {
                self.queue.pop_front();
                continue;
            };
            if self.n_pieces == 0 {
                self.last_progress = now;
            }
            self.n_pieces += 1;
            self.n_bytes += piece.region.n_bytes();
            return Some(piece);
        }
        None
    }

    /// A piece has been fetched, or cannot be. Gives the reply when it was the last.
    pub(crate) fn sent(
        &mut self,
        (read, n_bytes): (u64, usize),
        outcome: Result<()>,
        now: Instant,
    ) -> Option<Result<()>> {
        self.n_pieces -= 1;
        self.n_bytes -= n_bytes;
        self.last_progress = now;
        let serving = self.serving.get_mut(&read)?;
        serving.n_pieces -= 1;
        if let (Err(failure), Some(Ok(()))) = (outcome, &serving.outcome) {
            serving.outcome = Some(Err(failure));
            serving.outbox = Outbox::default();
        }
        let is_over = serving.outbox.is_empty() && serving.n_pieces == 0;
        if is_over { self.serving.remove(&read)?.outcome } else { None }
    }

    /// The reader wants no more of a read.
    pub(crate) fn cancel(&mut self, read: u64) {
        let Some(serving) = self.serving.get_mut(&read) else { return };
        // While no piece may go, nobody else would take it from the queue.
        self.queue.retain(|queued| *queued != read);
        (serving.outbox, serving.outcome) = (Outbox::default(), None);
        if serving.n_pieces == 0 {
            self.serving.remove(&read);
        }
    }

    /// Whether anything is on its way.
    pub(crate) fn is_busy(&self) -> bool {
        self.n_pieces > 0
    }

    /// Whether the reader has fetched nothing for too long.
    pub(crate) fn is_stalled(&self, clock: Clock) -> bool {
        self.is_busy() && OWNER_PATIENCE.is_over(self.last_progress, clock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::N_READS_MAX;
    use crate::runs::Segment;
    use planes::{LeasedMemory, Source};
    use std::time::Duration;

    const N_BYTES: usize = 64;

    /// An owner, what it lends, and what is asked for every time: two pieces of it.
    fn lending() -> (Owner, LeaseTable, Request) {
        let (table, now) = (LeaseTable::default(), Instant::now());
        let mut memory = vec![0_u8; N_BYTES];
        // SAFETY: the vector is moved beside the region and never touched.
        let region = unsafe { Region::new(memory.as_mut_ptr(), N_BYTES) };
        let leased = LeasedMemory { regions: vec![region], keep: Box::new(memory) };
        let (lease, secret) = table.grant(leased, now + Duration::from_secs(60)).unwrap();
        let source = Source { region_idx: 0, offset: 0 };
        let segment = Segment { source, n_bytes: N_BYTES, begins_run: true };
        (Owner::new(0, now), table, Request { lease, secret, segments: vec![segment; 2] })
    }

    fn begin_pieces(owner: &mut Owner) -> Vec<Piece> {
        std::iter::from_fn(|| owner.next_piece(Instant::now())).collect()
    }

    #[test]
    fn reads_given_up_leave_room_for_others() {
        let (mut owner, table, request) = lending();
        for read in 0..N_READS_MAX as u64 {
            assert_eq!(owner.ask(read, &request, Some(&table)), Ok(None));
        }
        let pieces = begin_pieces(&mut owner);
        assert_eq!(pieces.len(), N_PIECES_MAX);
        let begun: Vec<u64> = (0..N_PIECES_MAX as u64 / 2).collect();
        begun.iter().for_each(|read| owner.cancel(*read));
        for read in 0..begun.len() as u64 {
            let outcome = owner.ask(1000 + read, &request, Some(&table));
            assert_eq!(outcome, Ok(None), "it stands for one that was given up");
        }
        for piece in pieces {
            let reply = owner.sent((piece.read, N_BYTES), Ok(()), Instant::now());
            assert_eq!(reply, None, "nobody waits for it");
        }
        assert_eq!(owner.serving.len(), N_READS_MAX);
    }

    #[test]
    fn reads_are_bounded_whatever_is_asked_and_given_up() {
        let (mut owner, table, request) = lending();
        let ask = |owner: &mut Owner, read| owner.ask(read, &request, Some(&table)).is_ok();
        for read in 0..N_PIECES_MAX as u64 {
            assert!(ask(&mut owner, read));
        }
        let standing = begin_pieces(&mut owner);
        for read in 1000..2000 {
            assert!(ask(&mut owner, read), "{read}");
            owner.cancel(read);
            assert!(owner.queue.len() <= N_SERVED_MAX, "the queue keeps what nobody wants");
        }
        let n_taken = (2000..3000).filter(|read| ask(&mut owner, *read)).count();
        assert_eq!(owner.serving.len(), N_SERVED_MAX);
        assert_eq!((n_taken, standing.len()), (N_SERVED_MAX - N_PIECES_MAX, N_PIECES_MAX));
    }
}
