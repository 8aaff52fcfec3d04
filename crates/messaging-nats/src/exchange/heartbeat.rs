//! What time brings: heartbeats to the peers with whom there are streams, and the end of those who
//! have fallen silent.
//!
//! A heartbeat is a roll of the streams in common. It makes good whatever frame was lost: the last
//! of a stream, a cancellation, a credit.

use super::{Exchange, RunKey};
use crate::frame::{Epoch, Frame, N_ENTRY_BYTES, N_MESSAGE_BYTES_MIN, Roll, Side, StreamId};
use planes::pulse::SILENCE_MAX;
use std::collections::HashMap;
use std::time::Instant;

/// Beats of our own without a word from a peer before its silence counts: what has arrived while
/// this process had no time to read must have been read first.
const N_MISSED_MIN: u32 = 3;
/// Entries of one roll; a longer one is sent in several.
const N_ENTRIES_MAX: usize = (N_MESSAGE_BYTES_MIN - 128) / N_ENTRY_BYTES;

/// Streams and their counts, by peer.
type Entries = HashMap<Epoch, Vec<(StreamId, u64)>>;

impl Exchange {
    /// Gives up who has been silent, and sends a heartbeat to everybody else.
    pub(crate) fn beat(&mut self, now: Instant) {
        let is_silent = |n_missed: u32, since: Instant| {
            n_missed >= N_MISSED_MIN && now.saturating_duration_since(since) > SILENCE_MAX
        };
        let mut silent_peers = Vec::new();
        for (&epoch, peer) in &mut self.peers {
            peer.n_missed += 1;
            if is_silent(peer.n_missed, peer.last_heard) {
                silent_peers.push(epoch);
            }
        }
        let mut unheard = Vec::new();
        for (&stream, calling) in &mut self.calls {
            calling.n_beats += 1;
            if calling.callee.is_none() && is_silent(calling.n_beats, calling.opened) {
                unheard.push(stream);
            }
        }
        unheard.into_iter().for_each(|stream| self.lose_call(stream));
        self.openings
            .retain(|_, opening| now.saturating_duration_since(opening.since) <= SILENCE_MAX);
        self.send_rolls(&silent_peers);
    }

    fn send_rolls(&mut self, silent_peers: &[Epoch]) {
        let (callers, callees) = (self.calls_by_callee(), self.runs_by_caller());
        for peer in silent_peers {
            self.give_up(*peer, callers.get(peer), callees.get(peer));
        }
        let has_streams =
            |epoch: &Epoch| callers.contains_key(epoch) || callees.contains_key(epoch);
        self.peers.retain(|epoch, peer| has_streams(epoch) || !peer.lane.is_empty());
        for (peer, entries) in callers {
            let ceiling = self.next_stream - 1;
            self.send_roll(peer, Side::Caller, &entries, ceiling);
        }
        for (peer, entries) in callees {
            self.send_roll(peer, Side::Callee, &entries, StreamId::MAX);
        }
    }

    /// Calls whose callee is known, and beside each group all those of which nothing was heard yet:
    /// any peer may be their callee.
    fn calls_by_callee(&self) -> Entries {
        let (mut by_callee, mut unheard) = (Entries::new(), Vec::new());
        for (&stream, calling) in &self.calls {
            let entry = (stream, calling.queue.n_read());
            match calling.callee {
                Some(callee) => by_callee.entry(callee).or_default().push(entry),
                None => unheard.push(entry),
            }
        }
        for entries in by_callee.values_mut() {
            entries.extend_from_slice(&unheard);
            entries.sort_unstable();
        }
        by_callee
    }

    fn runs_by_caller(&self) -> Entries {
        let mut by_caller = Entries::new();
        for (&(caller, stream), running) in &self.runs {
            by_caller.entry(caller).or_default().push((stream, running.n_frames));
        }
        by_caller.values_mut().for_each(|entries| entries.sort_unstable());
        by_caller
    }

    fn give_up(
        &mut self,
        peer: Epoch,
        calls: Option<&Vec<(StreamId, u64)>>,
        runs: Option<&Vec<(StreamId, u64)>>,
    ) {
        // Nothing waits for it any more, so what is said below goes nowhere.
        self.peers.remove(&peer);
        for &(stream, _) in calls.into_iter().flatten() {
            if self.calls.get(&stream).is_some_and(|calling| calling.callee == Some(peer)) {
                self.lose_call(stream);
            }
        }
        for &(stream, _) in runs.into_iter().flatten() {
            self.cancel_run((peer, stream));
        }
    }

    /// Sends a roll of all `entries`, as the only streams in common up to `ceiling`.
    fn send_roll(
        &mut self,
        peer: Epoch,
        side: Side,
        entries: &[(StreamId, u64)],
        ceiling: StreamId,
    ) {
        let mut first = 0;
        let mut rest = entries;
        loop {
            let (these, others) = rest.split_at(N_ENTRIES_MAX.min(rest.len()));
            let last = match (others, these.last()) {
                ([_, ..], Some(&(stream, _))) => stream,
                _ => ceiling,
            };
            let roll = Roll { side, first, last, entries: these.to_vec() };
            self.send_to_peer(peer, &Frame::Roll(roll));
            if others.is_empty() {
                return;
            }
            (first, rest) = (last + 1, others);
        }
    }

    pub(super) fn on_roll(&mut self, from: Epoch, roll: &Roll, now: Instant) {
        match roll.side {
            Side::Caller => self.on_roll_of_caller(from, roll, now),
            Side::Callee => self.on_roll_of_callee(from, roll, now),
        }
    }

    fn on_roll_of_caller(&mut self, from: Epoch, roll: &Roll, now: Instant) {
        let keys = self.runs.keys().chain(self.openings.keys());
        let is_gone = |key: &&RunKey| key.0 == from && roll.denies(key.1);
        for key in keys.filter(is_gone).copied().collect::<Vec<_>>() {
            self.cancel_run(key);
        }
        let mut is_mistaken = false;
        for &(stream, n_read) in &roll.entries {
            self.on_credit((from, stream), n_read);
            is_mistaken |= !self.runs.contains_key(&(from, stream));
        }
        // The caller believes in a stream that has ended here: our roll says so, and comes after
        // the end, which is on its way if it was not lost.
        if is_mistaken && self.meet(from, now) {
            let mut runs: Vec<(StreamId, u64)> = Vec::new();
            let of_caller = self.runs.iter().filter(|(key, _)| key.0 == from);
            runs.extend(of_caller.map(|(key, running)| (key.1, running.n_frames)));
            runs.sort_unstable();
            self.send_roll(from, Side::Callee, &runs, StreamId::MAX);
        }
    }

    fn on_roll_of_callee(&mut self, from: Epoch, roll: &Roll, now: Instant) {
        for &(stream, n_sent) in &roll.entries {
            let n_received = self.heard_call(from, stream, now).map(|calling| calling.n_frames);
            match n_received {
                Some(n_received) if n_received < n_sent => self.lose_call(stream),
                Some(_) => {}
                None if self.meet(from, now) => self.send_to_peer(from, &Frame::Cancel { stream }),
                None => {}
            }
        }
        let of_callee = self.calls.iter().filter(|(_, calling)| calling.callee == Some(from));
        let denied = of_callee.filter(|(stream, _)| roll.denies(**stream));
        for stream in denied.map(|(&stream, _)| stream).collect::<Vec<_>>() {
            self.lose_call(stream);
        }
    }
}
