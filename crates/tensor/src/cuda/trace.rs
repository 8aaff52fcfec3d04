//! How long each launch takes, while somebody asks: two events around it, on its own stream.
//!
//! Off, it costs a launch one load. Recorded steps are replayed as a whole and not seen here.

use super::{Cuda, Event};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use types::{Error, Result};

/// Most launches of one trace.
const LAUNCHES_MAX: usize = 200_000;
/// Pairs of events with nothing between them, by which the events' own time is known.
const N_EMPTY_PAIRS: usize = 16;

/// A launch that was seen.
#[derive(Debug, Clone, PartialEq)]
pub struct TracedLaunch {
    /// The kernel, and whatever else tells it from others.
    pub name: String,
    /// Microseconds between its beginning and its end.
    pub us: f32,
    /// Bytes that it must read and write at least; 0 where that is not known.
    pub n_bytes: u64,
}

/// What is traced on all lanes of a GPU.
#[derive(Default)]
pub(super) struct Trace {
    is_on: AtomicBool,
    spans: Mutex<Vec<Span>>,
}

struct Span {
    name: String,
    n_bytes: u64,
    begin: Event,
    end: Event,
}

impl Trace {
    fn spans(&self) -> MutexGuard<'_, Vec<Span>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cuda {
    /// From now on, until [`Self::end_trace`], every launch on any lane of this GPU is timed.
    ///
    /// Errors: the driver refuses.
    pub fn start_trace(&self) -> Result<()> {
        let trace = self.context().trace();
        trace.spans().clear();
        trace.is_on.store(true, Ordering::Release);
        (0..N_EMPTY_PAIRS).try_for_each(|_| self.traced(|| (String::new(), 0), || Ok(())))
    }

    /// Ends the trace: every launch in the order in which they were given, less the time that the
    /// events themselves take.
    ///
    /// Errors: something failed on the way; there were too many launches.
    pub fn end_trace(&self) -> Result<Vec<TracedLaunch>> {
        let trace = self.context().trace();
        trace.is_on.store(false, Ordering::Release);
        self.context().synchronize()?;
        let mut spans = std::mem::take(&mut *trace.spans());
        if spans.len() >= LAUNCHES_MAX {
            return Err(Error::internal("too many launches to trace"));
        }
        let launches = spans.split_off(N_EMPTY_PAIRS.min(spans.len()));
        let empty: Vec<f32> = spans.iter().map(Span::us).collect::<Result<_>>()?;
        let least = empty.into_iter().fold(f32::INFINITY, f32::min);
        let launch = |span: Span| {
            let us = (span.us()? - least).max(0.0);
            Ok(TracedLaunch { us, name: span.name, n_bytes: span.n_bytes })
        };
        launches.into_iter().map(launch).collect()
    }

    /// Gives a launch to the stream; what it is called, and the bytes it must move, are asked only
    /// while there is a trace.
    pub(crate) fn traced<T>(
        &self,
        describe: impl FnOnce() -> (String, u64),
        launch: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let trace = self.context().trace();
        if !trace.is_on.load(Ordering::Acquire) {
            return launch();
        }
        let (begin, end) = (Event::new(self.context(), true)?, Event::new(self.context(), true)?);
        self.stream().record(&begin)?;
        let launched = launch()?;
        self.stream().record(&end)?;
        let (name, n_bytes) = describe();
        let mut spans = trace.spans();
        if spans.len() < LAUNCHES_MAX {
            spans.push(Span { name, n_bytes, begin, end });
        }
        Ok(launched)
    }
}

impl Span {
    fn us(&self) -> Result<f32> {
        Ok(self.end.ms_since(&self.begin)? * 1e3)
    }
}
