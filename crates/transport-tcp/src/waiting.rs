//! Waiting for a socket, but not for ever.

use crate::limits::{SPIN, STALL_MAX};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

/// A stream whose calls fail when nothing has moved for `STALL_MAX`. The stream's own timeout is
/// how often it looks whether `is_over`: whether there is nothing to wait for any more.
pub(crate) struct Patient<S, F> {
    stream: S,
    is_over: F,
}

impl<S, F: Fn() -> bool> Patient<S, F> {
    pub(crate) fn new(stream: S, is_over: F) -> Self {
        Self { stream, is_over }
    }

    fn wait<T>(&mut self, mut call: impl FnMut(&mut S) -> io::Result<T>) -> io::Result<T> {
        let since = Instant::now();
        loop {
            match call(&mut self.stream) {
                Err(failure) if failure.kind() == io::ErrorKind::Interrupted => {}
                Err(failure) if is_timeout(&failure) => {
                    if since.elapsed() >= STALL_MAX || (self.is_over)() {
                        return Err(failure);
                    }
                }
                moved => return moved,
            }
        }
    }
}

impl<S: Read, F: Fn() -> bool> Read for Patient<S, F> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.wait(|stream| stream.read(into))
    }

    fn read_vectored(&mut self, into: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.wait(|stream| stream.read_vectored(into))
    }
}

impl<S: Write, F: Fn() -> bool> Write for Patient<S, F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wait(|stream| stream.write(bytes))
    }

    fn write_vectored(&mut self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        self.wait(|stream| stream.write_vectored(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// A stream whose reads and writes fail from some moment on, however it drips.
///
/// A single call still takes as long as the timeout of the stream itself, so the whole takes no
/// longer than both.
pub(crate) struct Hurried<S> {
    stream: S,
    until: Instant,
}

impl<S> Hurried<S> {
    pub(crate) fn new(stream: S, within: Duration) -> Self {
        Self { stream, until: Instant::now() + within }
    }

    fn check(&self) -> io::Result<()> {
        let is_over = Instant::now() >= self.until;
        if is_over { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

impl<S: Read> Read for Hurried<S> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.check()?;
        self.stream.read(into)
    }
}

impl<S: Write> Write for Hurried<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.check()?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Asks again and again, for a moment: being woken takes longer than the other side often does.
/// Whoever shares the processor, which may be the other side, goes first.
pub(crate) fn spin<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let give_up = Instant::now() + SPIN;
    loop {
        let found = ask();
        if found.is_some() || Instant::now() >= give_up {
            return found;
        }
        thread::yield_now();
    }
}

/// Waits a moment for something to read. Errors: the stream's.
pub(crate) fn spin_on(stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    // Whatever the stream says, the reading that follows hears too.
    spin(|| match stream.peek(&mut [0]) {
        Err(failure) if is_timeout(&failure) => None,
        Ok(_) | Err(_) => Some(()),
    });
    stream.set_nonblocking(false)
}

/// Whether a call on a stream ended because its time was up.
pub(crate) fn is_timeout(failure: &io::Error) -> bool {
    matches!(failure.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
