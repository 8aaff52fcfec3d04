//! What the engine tells of one sequence, on its way from the engine's thread to the call.
//!
//! Each message with tokens wakes half a dozen threads of several processes, which costs as much
//! as a small model's step. So tokens that come faster than [`TOKENS_APART_MIN`] travel together;
//! everything else goes at once, with the tokens before it.

use engine::{SeqEvent, SeqSink};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use types::{Error, Result};

/// Time between two messages with tokens of one call, at least. Nobody who reads along sees the
/// difference.
const TOKENS_APART_MIN: Duration = Duration::from_millis(1);

/// The events of one sequence. Their number is bounded by its tokens, so the queue needs no bound.
pub(crate) struct Events {
    queue: Arc<Queue>,
    /// Taken from the queue and not returned yet.
    taken: VecDeque<SeqEvent>,
    /// Until then tokens alone stay in the queue.
    quiet_until: Option<Instant>,
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    bell: Notify,
}

#[derive(Default)]
struct State {
    events: VecDeque<SeqEvent>,
    waits_for: WaitsFor,
    /// Whether the engine tells no more.
    is_over: bool,
}

/// What the bell is to be rung for.
#[derive(Default, PartialEq, Eq)]
enum WaitsFor {
    /// The reader is awake, or does not read now.
    #[default]
    Nothing,
    Anything,
    /// Anything but tokens: those are looked for when their time has come.
    Others,
}

/// What there is to take.
enum Found {
    Nothing,
    /// Tokens alone, before their time.
    Early(Instant),
    Tokens,
    Others,
    /// There never will be.
    Over,
}

/// The engine's end.
struct Feeder(Arc<Queue>);

/// A sink for the engine, and what comes through it.
pub(crate) fn events() -> (SeqSink, Events) {
    let queue = Arc::<Queue>::default();
    let feeder = Feeder(Arc::clone(&queue));
    (Box::new(move |event| feeder.put(event)), Events::new(queue))
}

impl Events {
    fn new(queue: Arc<Queue>) -> Self {
        Self { queue, taken: VecDeque::new(), quiet_until: None }
    }

    /// The next event; tokens of one choice that have queued up come together. Nothing is lost when
    /// the wait is given up: an event stays here until it is returned.
    ///
    /// Errors: the engine let go of the sequence.
    pub(crate) async fn next(&mut self) -> Result<SeqEvent> {
        let mut has_yielded = false;
        loop {
            if let Some(event) = self.taken.pop_front() {
                return Ok(event);
            }
            match self.queue.look(self.quiet_until) {
                Found::Nothing => self.queue.bell.notified().await,
                Found::Early(until) => {
                    // Whether the time has come or the bell was rung, what is there says it all.
                    let _ = timeout_at(until, self.queue.bell.notified()).await;
                }
                Found::Tokens if !has_yielded => {
                    // Under load others run now, and more tokens may come to go in one message.
                    has_yielded = true;
                    tokio::task::yield_now().await;
                }
                Found::Tokens | Found::Others => self.take(),
                Found::Over => return Err(Error::internal("the engine dropped a sequence")),
            }
        }
    }

    fn take(&mut self) {
        self.taken = gather(std::mem::take(&mut self.queue.state().events));
        if self.taken.iter().any(is_tokens) {
            self.quiet_until = Some(Instant::now() + TOKENS_APART_MIN);
        }
    }
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What there is. Where that is nothing yet, the bell will ring for what may be taken.
    fn look(&self, quiet_until: Option<Instant>) -> Found {
        let mut state = self.state();
        let (found, waits_for) = if state.events.iter().any(|event| !is_tokens(event)) {
            (Found::Others, WaitsFor::Nothing)
        } else if state.is_over {
            let found = if state.events.is_empty() { Found::Over } else { Found::Others };
            (found, WaitsFor::Nothing)
        } else if state.events.is_empty() {
            (Found::Nothing, WaitsFor::Anything)
        } else {
            match quiet_until.filter(|until| Instant::now() < *until) {
                Some(until) => (Found::Early(until), WaitsFor::Others),
                None => (Found::Tokens, WaitsFor::Nothing),
            }
        };
        state.waits_for = waits_for;
        found
    }
}

impl Feeder {
    /// Adds an event. The call may have ended before the engine learns of it.
    fn put(&self, event: SeqEvent) {
        let mut state = self.0.state();
        let rings = match state.waits_for {
            WaitsFor::Nothing => false,
            WaitsFor::Anything => true,
            WaitsFor::Others => !is_tokens(&event),
        };
        state.events.push_back(event);
        self.ring_if(rings, state);
    }

    fn ring_if(&self, rings: bool, mut state: MutexGuard<'_, State>) {
        if rings {
            state.waits_for = WaitsFor::Nothing;
            drop(state);
            self.0.bell.notify_one();
        }
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.is_over = true;
        self.ring_if(true, state);
    }
}

fn is_tokens(event: &SeqEvent) -> bool {
    matches!(event, SeqEvent::Tokens { .. })
}

/// The same events, with the tokens of a choice in one as far as nothing of that choice comes
/// between them.
fn gather(events: VecDeque<SeqEvent>) -> VecDeque<SeqEvent> {
    let mut gathered: VecDeque<SeqEvent> = VecDeque::with_capacity(events.len());
    let mut last_tokens: HashMap<u32, usize> = HashMap::new();
    for event in events {
        if let SeqEvent::Tokens { choice, tokens } = event {
            let idx = *last_tokens.entry(choice).or_insert(gathered.len());
            match gathered.get_mut(idx) {
                Some(SeqEvent::Tokens { tokens: before, .. }) => before.extend(tokens),
                _ => gathered.push_back(SeqEvent::Tokens { choice, tokens }),
            }
        } else {
            // Whatever it is of, no tokens pass it.
            last_tokens.clear();
            gathered.push_back(event);
        }
    }
    gathered
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use types::output::{FinishReason, OutputToken};

    fn tokens(choice: u32, token: u32) -> SeqEvent {
        let token = OutputToken { token, logprob: None, top_logprobs: Vec::new() };
        SeqEvent::Tokens { choice, tokens: vec![token] }
    }

    fn end(choice: u32) -> SeqEvent {
        SeqEvent::Finished { choice, reason: FinishReason::Stop }
    }

    /// `choice:token,token` or `choice.` for its end.
    fn words(event: &SeqEvent) -> String {
        match event {
            SeqEvent::Tokens { choice, tokens } => {
                let tokens: Vec<String> = tokens.iter().map(|t| t.token.to_string()).collect();
                format!("{choice}:{}", tokens.join(","))
            }
            SeqEvent::Finished { choice, .. } => format!("{choice}."),
            other => panic!("not put in here: {other:?}"),
        }
    }

    async fn next(events: &mut Events) -> String {
        words(&events.next().await.unwrap())
    }

    #[test]
    fn tokens_of_a_choice_come_together_and_never_after_its_end() {
        let check = |events: &[SeqEvent], expected: &str| {
            let gathered = gather(events.iter().cloned().collect());
            assert_eq!(gathered.iter().map(words).collect::<Vec<_>>().join(" "), expected);
        };
        check(&[tokens(0, 1), tokens(1, 2), tokens(0, 3), tokens(1, 4)], "0:1,3 1:2,4");
        check(&[tokens(0, 1), end(0), tokens(1, 2), end(1)], "0:1 0. 1:2 1.");
        check(&[tokens(1, 1), end(0), tokens(1, 2), tokens(1, 3)], "1:1 0. 1:2,3");
    }

    #[tokio::test]
    async fn tokens_that_come_fast_travel_together_and_the_end_at_once() {
        let (mut sink, mut events) = events();
        sink(tokens(0, 1));
        assert_eq!(next(&mut events).await, "0:1");
        let until = Instant::now() + Duration::from_millis(200);
        events.quiet_until = Some(until);
        sink(tokens(0, 2));
        // It goes on when time has come, though nothing rings for tokens.
        let waiting = next(&mut events);
        let feeding = async {
            tokio::task::yield_now().await;
            sink(tokens(0, 3));
        };
        assert_eq!(futures::join!(waiting, feeding).0, "0:2,3");
        assert!(Instant::now() >= until, "nothing but time makes tokens go");
        assert!(events.quiet_until > Some(until), "and then the next ones wait");
        sink(tokens(0, 4));
        sink(end(0));
        assert_eq!(next(&mut events).now_or_never().as_deref(), Some("0:4"));
        assert_eq!(next(&mut events).now_or_never().as_deref(), Some("0."));
    }

    #[tokio::test]
    async fn an_end_wakes_whoever_waits_for_tokens_to_gather() {
        let (mut sink, mut events) = events();
        sink(tokens(0, 1));
        next(&mut events).await;
        // Tokens alone would be waited for much longer than this test may take.
        events.quiet_until = Some(Instant::now() + Duration::from_secs(3600));
        sink(tokens(0, 2));
        assert!(next(&mut events).now_or_never().is_none());
        let feeding = async { sink(end(0)) };
        assert_eq!(futures::join!(next(&mut events), feeding).0, "0:2");
        assert_eq!(next(&mut events).await, "0.");
    }

    #[tokio::test]
    async fn a_wait_that_is_given_up_loses_no_token() {
        let (mut sink, mut events) = events();
        sink(tokens(0, 1));
        assert!(next(&mut events).now_or_never().is_none(), "it lets others run first");
        sink(tokens(0, 2));
        assert_eq!(next(&mut events).await, "0:1,2");
        drop(sink);
        assert!(events.next().await.is_err(), "the engine tells no more");
    }

    #[tokio::test]
    async fn what_was_told_before_the_engine_let_go_is_heard() {
        let (mut sink, mut events) = events();
        sink(tokens(0, 1));
        next(&mut events).await;
        events.quiet_until = Some(Instant::now() + Duration::from_secs(3600));
        sink(tokens(0, 2));
        drop(sink);
        assert_eq!(next(&mut events).await, "0:2");
        assert!(events.next().await.is_err());
    }
}
