//! The threads and open sockets of one transport: they end with it.

use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use types::{Error, ErrorKind, Result};

#[derive(Default)]
pub(crate) struct Crew(Mutex<State>);

#[derive(Default)]
struct State {
    is_closing: bool,
    threads: Vec<JoinHandle<()>>,
    sockets: HashMap<u64, Arc<TcpStream>>,
    n_sockets_so_far: u64,
}

/// An open socket, closed when dropped or when the crew closes.
pub(crate) struct Socket {
    stream: Arc<TcpStream>,
    id: u64,
    crew: Arc<Crew>,
}

impl Crew {
    /// Starts a thread. Errors: the crew is closing, or the system gives none (`Overloaded`).
    pub(crate) fn spawn(&self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
        let mut state = self.lock();
        if state.is_closing {
            return Err(crate::lost("the transport was closed"));
        }
        state.threads.retain(|thread| !thread.is_finished());
        let thread = thread::Builder::new().name(name.into()).spawn(work).map_err(|failure| {
            let message = format!("the system gives no thread for a transfer: {failure}");
            Error::new(ErrorKind::Overloaded, message)
        })?;
        state.threads.push(thread);
        Ok(())
    }

    /// Takes a socket into the crew. Errors: the crew is closing.
    pub(crate) fn adopt(self: &Arc<Self>, stream: TcpStream) -> io::Result<Socket> {
        let mut state = self.lock();
        if state.is_closing {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let (stream, id) = (Arc::new(stream), state.n_sockets_so_far);
        state.n_sockets_so_far += 1;
        state.sockets.insert(id, Arc::clone(&stream));
        Ok(Socket { stream, id, crew: Arc::clone(self) })
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.lock().is_closing
    }

    /// Ends every wait on a socket, and lets no new thread or socket begin.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.is_closing = true;
        for socket in state.sockets.values() {
            // It fails when the other end has closed already, which is what we want.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Waits for all threads, but not for the one that asks.
    pub(crate) fn join(&self) {
        let threads = std::mem::take(&mut self.lock().threads);
        let others = threads.into_iter().filter(|it| it.thread().id() != thread::current().id());
        others.for_each(|thread| {
            // Whoever panicked has told the world so.
            let _ = thread.join();
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is consistent after every statement, so a panic elsewhere does not spoil it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deref for Socket {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        &self.stream
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.crew.lock().sockets.remove(&self.id);
    }
}
