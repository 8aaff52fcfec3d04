//! What a reader does with one owner, as a state machine: it calls nothing and knows no clock.

use crate::limits::{N_READS_MAX, N_READS_WAITING_MAX, READER_PATIENCE};
use crate::lost;
use crate::patience::Clock;
use crate::runs::{Place, is_whole, landing, plan};
use crate::wire::Request;
use futures::channel::oneshot;
use planes::{Destination, Region, Source};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Instant;
use types::{Error, ErrorKind, LeaseId, Result, Secret};

/// A read that is wanted.
pub(crate) struct Order {
    pub(crate) lease: LeaseId,
    pub(crate) secret: Secret,
    pub(crate) sources: Vec<Source>,
    pub(crate) into: Destination,
    pub(crate) reply: oneshot::Sender<Answer>,
}

/// How a read ended.
pub(crate) enum Answer {
    Ended(Result<Destination>),
    /// The pair was lost; nothing lands in the destination any more, and it may be tried again.
    Lost {
        into: Destination,
        why: Error,
    },
}

/// A read that has ended, and who is to hear of it.
pub(crate) struct Finished {
    reply: oneshot::Sender<Answer>,
    outcome: Result<Destination>,
}

impl Finished {
    /// Tells whoever waits; if nobody does, the destination is dropped.
    pub(crate) fn tell(self) {
        let _ = self.reply.send(Answer::Ended(self.outcome));
    }
}

/// The reads from one owner.
pub(crate) struct Reader {
    /// Asked for, by number, in the order of asking.
    reading: BTreeMap<u64, Reading>,
    waiting: VecDeque<Order>,
    n_asked: u64,
    /// Pieces being fetched, those of reads that nobody waits for any more too.
    n_pieces: usize,
    last_progress: Instant,
}

struct Reading {
    into: Rc<Destination>,
    runs: Vec<Region>,
    n_bytes: u64,
    n_bytes_begun: u64,
    n_bytes_landed: u64,
    landed: Vec<(Place, usize)>,
    /// Whether the owner has said that it held the memory until all was sent.
    is_confirmed: bool,
    reply: oneshot::Sender<Answer>,
    last_progress: Instant,
}

impl Reader {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            reading: BTreeMap::new(),
            waiting: VecDeque::new(),
            n_asked: 0,
            n_pieces: 0,
            last_progress: now,
        }
    }

    /// Takes an order, or says to its giver that there are too many.
    pub(crate) fn take(&mut self, order: Order) {
        if self.waiting.len() < N_READS_WAITING_MAX {
            return self.waiting.push_back(order);
        }
        let message = "too many transfers are waiting for this owner";
        let refusal = Error::new(ErrorKind::Overloaded, message);
        let _ = order.reply.send(Answer::Ended(Err(refusal)));
    }

    /// The next request to send, and its number.
    pub(crate) fn next_request(&mut self, now: Instant) -> Option<(u64, Request)> {
        if self.reading.len() >= N_READS_MAX {
            return None;
        }
        let Order { lease, secret, sources, into, reply } = self.waiting.pop_front()?;
        let (segments, runs) = plan(&sources, &into.regions);
        self.n_asked += 1;
        let reading = Reading {
            n_bytes: runs.iter().map(|run| run.n_bytes() as u64).sum(),
            into: Rc::new(into),
            runs,
            n_bytes_begun: 0,
            n_bytes_landed: 0,
            landed: Vec::new(),
            is_confirmed: false,
            reply,
            last_progress: now,
        };
        self.reading.insert(self.n_asked, reading);
        Some((self.n_asked, Request { lease, secret, segments }))
    }

    /// Where an offered piece goes, and what keeps that memory; none if it is not wanted.
    ///
    /// Errors: it was never asked for.
    pub(crate) fn land(
        &mut self,
        read: u64,
        place: Place,
        n_bytes: usize,
    ) -> Result<Option<(Region, Rc<Destination>)>> {
        let Some(reading) = self.reading.get_mut(&read) else { return Ok(None) };
        let n_bytes_begun = reading.n_bytes_begun.saturating_add(n_bytes as u64);
        let at = landing(&reading.runs, place, n_bytes)
            .filter(|_| n_bytes > 0 && n_bytes_begun <= reading.n_bytes)
            .ok_or_else(|| lost("it sent what it was not asked for"))?;
        reading.n_bytes_begun = n_bytes_begun;
        reading.landed.push((place, n_bytes));
        self.n_pieces += 1;
        Ok(Some((at, Rc::clone(&reading.into))))
    }

    /// A piece has landed. Gives the read if that was all of it.
    pub(crate) fn landed(&mut self, read: u64, n_bytes: usize, now: Instant) -> Option<Finished> {
        self.n_pieces -= 1;
        self.last_progress = now;
        let reading = self.reading.get_mut(&read)?;
        reading.n_bytes_landed += n_bytes as u64;
        reading.last_progress = now;
        self.finish_if_whole(read)
    }

    /// The owner has said how a read ended on its side. Gives the read if it has ended on ours.
    pub(crate) fn replied(&mut self, read: u64, outcome: Result<()>) -> Option<Finished> {
        match outcome {
            Ok(()) => self.reading.get_mut(&read)?.is_confirmed = true,
            Err(failure) => {
                let Reading { reply, .. } = self.reading.remove(&read)?;
                return Some(Finished { reply, outcome: Err(failure) });
            }
        }
        self.finish_if_whole(read)
    }

    fn finish_if_whole(&mut self, read: u64) -> Option<Finished> {
        let is_whole_now =
            |reading: &Reading| reading.is_confirmed && reading.n_bytes_landed == reading.n_bytes;
        if !is_whole_now(self.reading.get(&read)?) {
            return None;
        }
        let Reading { into, runs, landed, reply, .. } = self.reading.remove(&read)?;
        let outcome = match Rc::try_unwrap(into) {
            Ok(into) if is_whole(&runs, landed) => Ok(into),
            _ => Err(lost("its pieces do not fit together")),
        };
        Some(Finished { reply, outcome })
    }

    /// Lets go of reads that nobody waits for; gives the numbers of those asked for.
    pub(crate) fn forget_abandoned(&mut self) -> Vec<u64> {
        self.waiting.retain(|order| !order.reply.is_canceled());
        let is_abandoned = |(_, reading): &(&u64, &Reading)| reading.reply.is_canceled();
        let abandoned: Vec<u64> = self.reading.iter().filter(is_abandoned).map(|r| *r.0).collect();
        for read in &abandoned {
            self.reading.remove(read);
        }
        abandoned
    }

    /// Tells everybody who waits that the owner is lost.
    pub(crate) fn lose(self, why: &str) {
        for Reading { into, reply, .. } in self.reading.into_values() {
            let _ = reply.send(match Rc::try_unwrap(into) {
                Ok(into) => Answer::Lost { into, why: lost(why) },
                // Something may still land in it.
                Err(_) => Answer::Ended(Err(lost(why))),
            });
        }
        for Order { into, reply, .. } in self.waiting {
            let _ = reply.send(Answer::Lost { into, why: lost(why) });
        }
    }

    /// Whether anything is wanted or being fetched.
    pub(crate) fn is_busy(&self) -> bool {
        self.n_pieces > 0 || !self.reading.is_empty()
    }

    /// Whether the owner has kept somebody waiting for too long. It serves in the order of asking,
    /// so progress of an earlier read is progress of the later ones.
    pub(crate) fn is_stalled(&self, clock: Clock) -> bool {
        let is_old = |moment: Instant| READER_PATIENCE.is_over(moment, clock);
        let mut latest = None;
        let mut is_kept_waiting = |reading: &Reading| {
            latest = latest.max(Some(reading.last_progress));
            latest.is_some_and(is_old)
        };
        (self.n_pieces > 0 && is_old(self.last_progress))
            || self.reading.values().any(&mut is_kept_waiting)
    }
}
