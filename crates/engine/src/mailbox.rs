//! The bounded queue between callers and the engine's thread.
//!
//! New work is refused when the queue is full. What lets known work go on or end is taken until a
//! far higher limit, at which its callers wait.

use crate::command::Command;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use types::{Error, ErrorKind, Result};

/// Most commands waiting before new work is refused.
const NEW_WORK_LEN_MAX: usize = 4096;
/// Most commands waiting at all.
const LEN_MAX: usize = 65_536;

/// How long the engine's thread waits for a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Not at all: there is other work.
    No,
    /// So long: something else may end.
    AtMost(Duration),
    /// Until there is one.
    Forever,
}

#[derive(Default)]
pub(crate) struct Mailbox {
    state: Mutex<State>,
    filled: Condvar,
    emptied: Condvar,
}

#[derive(Default)]
struct State {
    commands: VecDeque<Command>,
    is_closed: bool,
    /// Whether the engine's thread sleeps until there is a command: only then is it woken, for
    /// waking asks the system even where nobody sleeps.
    is_awaited: bool,
    /// Callers that sleep until there is room.
    n_blocked: usize,
}

impl Mailbox {
    /// Puts a command at the end. Errors: `Overloaded` for new work when the queue is full,
    /// `Unavailable` when the engine has stopped.
    pub(crate) fn post(&self, command: Command) -> Result<()> {
        let mut state = self.lock();
        if command.is_new_work() && state.commands.len() >= NEW_WORK_LEN_MAX {
            return Err(Error::new(ErrorKind::Overloaded, "the engine's queue is full"));
        }
        while state.commands.len() >= LEN_MAX && !state.is_closed {
            state.n_blocked += 1;
            state = self.emptied.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.n_blocked -= 1;
        }
        if state.is_closed {
            return Err(Error::new(ErrorKind::Unavailable, "the engine has stopped"));
        }
        state.commands.push_back(command);
        let is_awaited = std::mem::take(&mut state.is_awaited);
        drop(state);
        if is_awaited {
            self.filled.notify_one();
        }
        Ok(())
    }

    /// All commands waiting, after waiting for one as long as `wait` says; `None` once closed.
    pub(crate) fn take(&self, wait: Wait) -> Option<VecDeque<Command>> {
        let mut state = self.lock();
        while state.commands.is_empty() && !state.is_closed {
            state.is_awaited = wait != Wait::No;
            state = match wait {
                Wait::No => break,
                Wait::AtMost(time) => {
                    let waited = self.filled.wait_timeout(state, time);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                    break;
                }
                Wait::Forever => self.filled.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
        state.is_awaited = false;
        if state.is_closed {
            return None;
        }
        let commands = std::mem::take(&mut state.commands);
        let n_blocked = state.n_blocked;
        drop(state);
        if n_blocked > 0 {
            self.emptied.notify_all();
        }
        Some(commands)
    }

    /// Nothing is taken or given any more.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        // Dropped outside the lock: sinks may hold anything.
        let commands = std::mem::take(&mut state.commands);
        drop(state);
        drop(commands);
        self.filled.notify_all();
        self.emptied.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
