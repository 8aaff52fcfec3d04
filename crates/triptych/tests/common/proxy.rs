//! A way to a server that can be cut and mended, as a network may be: while it is cut nothing gets
//! through, and nobody is told.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// A TCP port that leads to another. It ends with the process of the test.
pub(crate) struct Proxy {
    port: u16,
    gate: Arc<Gate>,
}

/// Open or closed.
struct Gate {
    is_open: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn wait_until_open(&self) {
        let mut is_open = self.is_open.lock().unwrap_or_else(PoisonError::into_inner);
        while !*is_open {
            is_open = self.changed.wait(is_open).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn set(&self, is_open: bool) {
        *self.is_open.lock().unwrap_or_else(PoisonError::into_inner) = is_open;
        self.changed.notify_all();
    }
}

impl Proxy {
    /// Leads to `port` of this machine.
    pub(crate) fn start(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let own_port = listener.local_addr().unwrap().port();
        let gate = Arc::new(Gate { is_open: Mutex::new(true), changed: Condvar::new() });
        let opener = Arc::clone(&gate);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let gate = Arc::clone(&opener);
                std::thread::spawn(move || lead(client, port, &gate));
            }
        });
        Self { port: own_port, gate }
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// From now on nothing gets through.
    pub(crate) fn cut(&self) {
        self.gate.set(false);
    }

    /// What was held up gets through, and all that follows.
    pub(crate) fn mend(&self) {
        self.gate.set(true);
    }
}

fn lead(client: TcpStream, port: u16, gate: &Arc<Gate>) {
    gate.wait_until_open();
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { return };
    let (there, back) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let other = Arc::clone(gate);
    std::thread::spawn(move || pass(back, client, &other));
    pass(there, server, gate);
}

/// Passes bytes on until one side closes.
fn pass(mut from: TcpStream, mut to: TcpStream, gate: &Gate) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(n_bytes @ 1..) = from.read(&mut bytes) {
        gate.wait_until_open();
        if to.write_all(&bytes[..n_bytes]).is_err() {
            break;
        }
    }
    gate.wait_until_open();
    let _ = to.shutdown(std::net::Shutdown::Both);
    let _ = from.shutdown(std::net::Shutdown::Both);
}
