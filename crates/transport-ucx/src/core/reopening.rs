//! Opening UCX anew, after which nothing of the old is left; and what is answered while it cannot
//! be opened.

use super::{Core, Desk, Opened, begin};
use crate::limits::{N_REOPENINGS_MAX, REOPEN_PAUSE};
use crate::lost;
use crate::reader::Answer;
use crate::shared::{Command, Way};
use crate::system::{Watched, wait};
use std::time::{Duration, Instant};
use types::Error;

impl Core {
    /// Ends all pairs, and UCX with them, and opens it again. A worker that is destroyed touches
    /// no memory any more, so all of it is let go of. None if the transport was dropped meanwhile.
    pub(super) fn begin_anew(self) -> Option<Self> {
        tracing::warn!("UCX is opened anew after the loss of a peer");
        let Self { mut desk, ops, mut answers, pairs, .. } = self;
        answers.tell_all();
        // Nobody is given the address of a worker that is about to go.
        desk.shared.set_way(Way::Opening);
        // The old one goes first: there may be descriptors and shared memory for one only.
        drop(ops);
        let begun = begin(&desk.shared);
        // Whoever is told asks again at once, and is to find how it went.
        for pair in pairs.into_values() {
            pair.part("UCX was opened anew");
        }
        let opened = begun.or_else(|failure| desk.open_later(&failure)).ok()?;
        Some(Self::new(desk, opened))
    }
}

impl Desk {
    /// Tries again and again. Errors: the transport was dropped.
    fn open_later(&mut self, failure: &Error) -> Result<Opened, ()> {
        tracing::error!(%failure, "UCX cannot be opened anew; transfers go by other ways, if any");
        for _ in 0..N_REOPENINGS_MAX {
            self.refuse_all(Some(REOPEN_PAUSE))?;
            if let Ok(opened) = begin(&self.shared) {
                tracing::info!("UCX is open again");
                return Ok(opened);
            }
        }
        tracing::error!("UCX stays closed until this process is started anew");
        loop {
            self.refuse_all(None)?;
        }
    }

    /// Says to everybody that there is no UCX, for as long as that. Errors: the transport was
    /// dropped.
    fn refuse_all(&mut self, at_most: Option<Duration>) -> Result<(), ()> {
        let until = at_most.map(|time| Instant::now() + time);
        loop {
            self.shared.bell.fall_asleep();
            while let Ok(command) = self.commands.try_recv() {
                self.refuse(command);
            }
            self.shared.take_cancelled();
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if self.shared.is_stopped() {
                return Err(());
            }
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(());
            }
            self.wait(left);
        }
    }

    fn wait(&mut self, at_most: Option<Duration>) {
        let (door, at_most) = self.door.watched(at_most);
        let mut watched = [Watched::reading(self.shared.bell.fd()), door];
        wait(&mut watched, at_most);
        self.shared.bell.wake();
        let [bell, door] = watched;
        if bell.is_ready() {
            self.shared.bell.silence();
        }
        if door.is_ready() {
            self.door.open(&self.shared);
        }
    }

    fn refuse(&self, command: Command) {
        match command {
            Command::Join(join) => {
                let why = self.shared.worker().map(|_| lost("UCX was opened anew"));
                let _ = join.reply.send(Err(why.unwrap_or_else(|why| why)));
            }
            Command::Read { order, .. } => {
                let (into, why) = (order.into, lost("UCX was opened anew"));
                let _ = order.reply.send(Answer::Lost { into, why });
            }
        }
    }
}
