//! A deadline that is moved with every token, and whose timer is not.
//!
//! The timer runs to an older deadline and is set again when it gets there, so moving costs
//! nothing.

use std::pin::Pin;
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// Rings when nothing has moved it for long enough.
pub(crate) struct Alarm {
    deadline: Instant,
    /// The time from the last move to the deadline.
    most: Duration,
    timer: Pin<Box<Sleep>>,
}

impl Alarm {
    /// Rings after `most`.
    pub(crate) fn new(most: Duration) -> Self {
        let deadline = Instant::now() + most;
        Self { deadline, most, timer: Box::pin(sleep_until(deadline)) }
    }

    /// Rings `most` from now instead.
    pub(crate) fn set(&mut self, most: Duration) {
        self.deadline = Instant::now() + most;
        self.most = most;
        if self.deadline < self.timer.deadline() {
            self.timer.as_mut().reset(self.deadline);
        }
    }

    /// Resolves when it rings; gives how long nothing moved it.
    pub(crate) async fn rung(&mut self) -> Duration {
        loop {
            self.timer.as_mut().await;
            if Instant::now() >= self.deadline {
                return self.most;
            }
            self.timer.as_mut().reset(self.deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn it_rings_at_its_last_deadline() {
        for (first, second) in [(40, 10), (10, 40), (10, 10)] {
            let mut alarm = Alarm::new(first * MS);
            let set = Instant::now();
            alarm.set(second * MS);
            assert_eq!(alarm.rung().await, second * MS);
            assert!(set.elapsed() >= second * MS, "{first}, {second}: {:?}", set.elapsed());
        }
    }

    #[tokio::test]
    async fn an_earlier_deadline_does_not_wait_for_the_timer() {
        let mut alarm = Alarm::new(Duration::from_secs(3600));
        alarm.set(MS);
        assert_eq!(tokio::time::timeout(Duration::from_secs(60), alarm.rung()).await, Ok(MS));
    }
}
