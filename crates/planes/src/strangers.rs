//! Connections whose other end has not proved itself yet.
//!
//! There is room for some at a time. Where it is full the one that came first goes, so that those
//! who say nothing keep nobody out: a peer proves itself within milliseconds.

use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// See the file's description.
pub struct Strangers {
    n_max: usize,
    present: Mutex<Present>,
}

#[derive(Default)]
struct Present {
    /// In the order of coming.
    streams: VecDeque<(u64, TcpStream)>,
    n_so_far: u64,
}

/// A connection's place among the strangers; left when dropped.
pub struct Stranger {
    strangers: Arc<Strangers>,
    id: u64,
}

impl Strangers {
    /// Room for `n_max`.
    pub fn new(n_max: usize) -> Arc<Self> {
        Arc::new(Self { n_max, present: Mutex::default() })
    }

    /// Takes in a newcomer. Where there is no room, the connection of whoever came first is shut
    /// down, which ends every wait on it.
    ///
    /// Errors: no descriptors are left.
    pub fn admit(self: &Arc<Self>, stream: &TcpStream) -> io::Result<Stranger> {
        let stream = stream.try_clone()?;
        let (id, first) = {
            let mut present = self.present();
            let id = present.n_so_far;
            present.n_so_far += 1;
            present.streams.push_back((id, stream));
            let is_full = present.streams.len() > self.n_max;
            (id, is_full.then(|| present.streams.pop_front()).flatten())
        };
        if let Some((_, first)) = first {
            tracing::debug!("a stranger had to go, because more came");
            // It fails when the other end has closed already, which is what we want.
            let _ = first.shutdown(Shutdown::Both);
        }
        Ok(Stranger { strangers: Arc::clone(self), id })
    }

    fn present(&self) -> MutexGuard<'_, Present> {
        // The list is consistent after every statement, so a panic elsewhere does not spoil it.
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.strangers.present().streams.retain(|(id, _)| *id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Read, Write};
    use std::net::TcpListener;

    /// Both ends of a connection.
    fn connected(listener: &TcpListener) -> (TcpStream, TcpStream) {
        let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (theirs, listener.accept().unwrap().0)
    }

    /// Whether nothing is to be read, for now or because the connection has ended.
    fn has_ended(stream: &mut TcpStream) -> bool {
        stream.set_nonblocking(true).unwrap();
        match stream.read(&mut [0]) {
            Ok(n_bytes) => n_bytes == 0,
            Err(why) => why.kind() != ErrorKind::WouldBlock,
        }
    }

    #[test]
    fn the_first_to_come_goes_when_there_is_no_room() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let strangers = Strangers::new(2);
        let mut ends: Vec<_> = (0..4).map(|_| connected(&listener)).collect();
        let mut places: Vec<_> =
            ends[..2].iter().map(|(_, ours)| strangers.admit(ours).unwrap()).collect();
        // The second proves itself, and is no stranger any more.
        drop(places.pop());
        places.push(strangers.admit(&ends[2].1).unwrap());
        assert!(ends.iter_mut().all(|(_, ours)| !has_ended(ours)), "there was room");
        places.push(strangers.admit(&ends[3].1).unwrap());
        let ended: Vec<bool> = ends.iter_mut().map(|(_, ours)| has_ended(ours)).collect();
        assert_eq!(ended, [true, false, false, false]);
        drop(places);
        assert!(strangers.present().streams.is_empty());
        ends[1].1.write_all(b"still here").unwrap();
    }
}
