//! A heartbeat from a thread of its own, which no other work of the process can hold up.
//!
//! It also notices when the whole process stood still (stopped, swapped out, its machine asleep):
//! after more than [`SILENCE_MAX`] its peers have given it up, so it must not go on as if nothing
//! had happened.

use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// Time between two beats.
pub const INTERVAL: Duration = Duration::from_millis(400);

/// Silence after which a peer is given up: three beats and a margin.
pub const SILENCE_MAX: Duration = Duration::from_millis(1500);

/// What a beat finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    /// The process runs.
    Regular,
    /// The process stood still for so long that peers have given it up.
    Woke {
        /// Time since the last beat.
        silence: Duration,
    },
}

impl Beat {
    fn after(silence: Duration) -> Self {
        if silence > SILENCE_MAX { Self::Woke { silence } } else { Self::Regular }
    }
}

/// Beats until it is dropped.
pub struct Pulse {
    alive: Option<Arc<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Pulse {
    /// Calls `on_beat` each [`INTERVAL`]; it must not block.
    pub fn start(on_beat: impl FnMut(Beat) + Send + 'static) -> Self {
        let alive = Arc::new(());
        let is_alive = Arc::downgrade(&alive);
        let thread = thread::Builder::new()
            .name("pulse".into())
            .spawn(move || beat_while_alive(&is_alive, on_beat))
            .expect("the operating system gives a thread");
        Self { alive: Some(alive), thread: Some(thread) }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.alive = None;
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

fn beat_while_alive(is_alive: &Weak<()>, mut on_beat: impl FnMut(Beat)) {
    let mut last = Instant::now();
    loop {
        thread::park_timeout(INTERVAL.saturating_sub(last.elapsed()));
        if is_alive.strong_count() == 0 {
            return;
        }
        let silence = last.elapsed();
        if silence >= INTERVAL {
            last = Instant::now();
            on_beat(Beat::after(silence));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_long_silence_is_noticed() {
        assert_eq!(Beat::after(INTERVAL), Beat::Regular);
        assert_eq!(Beat::after(SILENCE_MAX), Beat::Regular);
        let silence = SILENCE_MAX + Duration::from_millis(1);
        assert_eq!(Beat::after(silence), Beat::Woke { silence });
    }

    #[test]
    fn it_beats_until_it_is_dropped() {
        let (sender, beats) = mpsc::channel();
        let pulse = Pulse::start(move |beat| sender.send(beat).expect("the test listens"));
        for _ in 0..2 {
            assert!(beats.recv_timeout(Duration::from_secs(10)).is_ok());
        }
        drop(pulse);
        // The thread has ended, and its end of the channel with it.
        while beats.try_recv().is_ok() {}
        assert_eq!(beats.try_recv(), Err(mpsc::TryRecvError::Disconnected));
    }
}
