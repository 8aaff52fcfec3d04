//! How two processes become a pair: over a TCP connection each proves that it has the cluster's
//! key, and only then do they tell each other how UCX reaches them. The connection stays open for
//! as long as the pair lasts; its end is how either side notices that the other is gone.
//!
//! These calls block; they are made in threads of their own.

use crate::limits::{
    ADDRESS_BYTES_MAX, CONNECT_MAX, HANDSHAKE_MAX, N_ADDRESSES_MAX, WORDS_BYTES_MAX,
};
use crate::lost;
use planes::ClusterKey;
use planes::cluster_key::{Side, authenticate};
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};
use types::{Error, ErrorKind, Result};

/// What one side tells the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hello {
    /// The table to be read from.
    pub(crate) table: u128,
    /// How the teller wants the pair to be called in messages.
    pub(crate) pair: u64,
    /// The address of the teller's UCX worker.
    pub(crate) worker: Vec<u8>,
}

/// Connects to an owner. Errors: out of reach (`PeerLost`), not of our cluster (`Forbidden`).
pub(crate) fn connect(peer: &str, key: &ClusterKey) -> Result<TcpStream> {
    let no_way = |why: io::Error| lost(&format!("no connection to {peer}: {why}"));
    let mut failure = io::ErrorKind::NotFound.into();
    for address in peer.to_socket_addrs().map_err(no_way)?.take(N_ADDRESSES_MAX) {
        match TcpStream::connect_timeout(&address, CONNECT_MAX) {
            Ok(stream) => return prove(stream, key, Side::Connecting),
            Err(why) => failure = why,
        }
    }
    Err(no_way(failure))
}

/// Lets both sides of a fresh connection prove themselves.
pub(crate) fn prove(stream: TcpStream, key: &ClusterKey, side: Side) -> Result<TcpStream> {
    let set = |stream: &TcpStream| {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(HANDSHAKE_MAX))?;
        stream.set_write_timeout(Some(HANDSHAKE_MAX))
    };
    set(&stream).map_err(ended)?;
    authenticate(&mut Hurried::new(&stream), key, side)?;
    Ok(stream)
}

/// Tells the peer who we are, or why not.
pub(crate) fn tell(stream: &TcpStream, hello: &Result<Hello>) -> Result<()> {
    let mut stream = Hurried::new(stream);
    stream.write_all(&encode(hello)).map_err(ended)
}

/// Hears who the peer is. Errors: what it said instead (`Unavailable` if it has no UCX at the
/// moment), or it said nothing (`PeerLost`).
pub(crate) fn hear(stream: &TcpStream) -> Result<Hello> {
    decode(&mut Hurried::new(stream))
}

/// How what is told begins: who the teller is follows, or why it does not say so.
const HELLO: u8 = 0;
const REFUSAL: u8 = 1;
const NO_UCX: u8 = 2;

fn encode(hello: &Result<Hello>) -> Vec<u8> {
    let (kind, table, pair, rest) = match hello {
        Ok(hello) => (HELLO, hello.table, hello.pair, &hello.worker[..]),
        Err(failure) => {
            let kind = match failure.kind {
                ErrorKind::Unavailable => NO_UCX,
                _ => REFUSAL,
            };
            let n_bytes = failure.message.len().min(WORDS_BYTES_MAX);
            let words = &failure.message.as_bytes()[..n_bytes];
            (kind, 0, 0, words)
        }
    };
    let mut bytes = vec![kind];
    bytes.extend(table.to_le_bytes());
    bytes.extend(pair.to_le_bytes());
    bytes.extend((rest.len() as u32).to_le_bytes());
    bytes.extend(rest);
    bytes
}

fn decode(stream: &mut impl Read) -> Result<Hello> {
    let [kind] = receive(stream)?;
    let table = u128::from_le_bytes(receive(stream)?);
    let pair = u64::from_le_bytes(receive(stream)?);
    let n_bytes = u32::from_le_bytes(receive(stream)?) as usize;
    let n_bytes_max = if kind == HELLO { ADDRESS_BYTES_MAX } else { WORDS_BYTES_MAX };
    if n_bytes > n_bytes_max {
        return Err(lost("what it says of itself is too long"));
    }
    let mut rest = vec![0; n_bytes];
    stream.read_exact(&mut rest).map_err(ended)?;
    let failed = |kind| Err(Error::new(kind, String::from_utf8_lossy(&rest)));
    match kind {
        HELLO => Ok(Hello { table, pair, worker: rest }),
        NO_UCX => failed(ErrorKind::Unavailable),
        _ => failed(ErrorKind::PeerLost),
    }
}

fn receive<const N: usize>(stream: &mut impl Read) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).map_err(ended)?;
    Ok(bytes)
}

fn ended(why: io::Error) -> Error {
    lost(&format!("the connection ended before we knew each other: {why}"))
}

/// A stream on which a message takes [`HANDSHAKE_MAX`] at most, however it drips.
struct Hurried<'a> {
    stream: &'a TcpStream,
    until: Instant,
}

impl<'a> Hurried<'a> {
    fn new(stream: &'a TcpStream) -> Self {
        Self { stream, until: Instant::now() + HANDSHAKE_MAX }
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for Hurried<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(into)
    }
}

impl Write for Hurried<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello { table: u128::MAX - 1, pair: 7, worker: vec![1, 2, 3] }
    }

    #[test]
    fn a_hello_is_heard_as_it_is_told() {
        assert_eq!(decode(&mut &encode(&Ok(hello()))[..]), Ok(hello()));
        for kind in [ErrorKind::PeerLost, ErrorKind::Unavailable] {
            let refusal = Err(Error::new(kind, "no such table, or no UCX"));
            assert_eq!(decode(&mut &encode(&refusal)[..]), refusal);
        }
        let long = Err(Error::new(ErrorKind::Unavailable, "x".repeat(2 * WORDS_BYTES_MAX)));
        let heard = decode(&mut &encode(&long)[..]).unwrap_err();
        assert_eq!((heard.kind, heard.message.len()), (ErrorKind::Unavailable, WORDS_BYTES_MAX));
    }

    #[test]
    fn what_is_cut_or_too_long_is_refused() {
        let whole = encode(&Ok(hello()));
        for n_bytes in 0..whole.len() {
            let failure = decode(&mut &whole[..n_bytes]).unwrap_err();
            assert_eq!(failure.kind, ErrorKind::PeerLost, "{n_bytes}");
        }
        let long = Hello { worker: vec![0; ADDRESS_BYTES_MAX + 1], ..hello() };
        assert!(decode(&mut &encode(&Ok(long))[..]).is_err());
    }
}
