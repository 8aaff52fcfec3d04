//! The secret that all processes of one cluster share, and how two of them prove on a fresh
//! connection that both have it, before either believes a word of the other.
//!
//! It says who is there; it encrypts nothing. Must not know which transport asks, nor sockets:
//! deadlines are the stream's.

use std::fmt;
use std::io::{self, Read, Write};
use types::{Error, ErrorKind, Result};

/// Shortest key, in bytes: who listens to a connection can try all shorter ones in peace.
pub const N_KEY_BYTES_MIN: usize = 16;

/// The setting a user compares when two processes do not know each other.
const SETTING: &str = "--cluster-key-file";

/// First bytes on every connection; the last one is the version of what follows.
const HELLO: [u8; 8] = *b"triptyc\x01";

/// What a proof is for, so that it proves nothing elsewhere.
const PURPOSE: &[u8] = b"triptych: a peer of the cluster, version 1";

/// What a key is derived for.
const DERIVATION: &str = "triptych 2026-11-21 cluster key";
const DERIVATION_OPEN: &str = "triptych 2026-11-21 no cluster key";

/// What a fingerprint is derived for, so that it is no proof.
const DERIVATION_FINGERPRINT: &str = "triptych 2026-11-21 fingerprint of a cluster key";

/// Digits of a fingerprint: enough that two clusters never have the same.
const N_FINGERPRINT_DIGITS: usize = 32;

/// Sent in place of a proof by the side that was given a wrong one.
const REFUSAL: Bytes32 = [0; 32];

type Bytes32 = [u8; 32];

/// The secret of a cluster, or the absence of one.
#[derive(Clone)]
pub struct ClusterKey(Bytes32);

/// Which end of a connection we are. The ends prove different things, so that nobody's proof can
/// be sent back to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// We opened the connection. This side proves itself first.
    Connecting,
    /// We were connected to.
    Accepting,
}

impl ClusterKey {
    /// The key for `secret`: the bytes of a key file or a passphrase. White space at its end (an
    /// editor's line break) does not count, so a file and what is typed give the same key.
    ///
    /// Errors: fewer than [`N_KEY_BYTES_MIN`] bytes (`InvalidInput`).
    pub fn from_bytes(secret: &[u8]) -> Result<Self> {
        let secret = secret.trim_ascii_end();
        if secret.len() < N_KEY_BYTES_MIN {
            let message = format!(
                "the cluster key has {} bytes, but needs at least {N_KEY_BYTES_MIN}; \
                 `openssl rand -hex 32` makes a good one",
                secret.len()
            );
            return Err(Error::invalid(message).at(SETTING));
        }
        Ok(Self(blake3::derive_key(DERIVATION, secret)))
    }

    /// No key is configured: whoever has none either is a peer.
    pub fn open() -> Self {
        Self(blake3::derive_key(DERIVATION_OPEN, &[]))
    }

    /// What may be written where others read it, so that processes see before their first request
    /// whether they have the same key; it proves nothing.
    ///
    /// Nobody can go back from it to a random key. Who reads it can try guesses on it, as who
    /// listens to a connection can on a proof; so a key should be random, and no passphrase.
    pub fn fingerprint(&self) -> String {
        let derived = blake3::Hash::from_bytes(blake3::derive_key(DERIVATION_FINGERPRINT, &self.0));
        derived.to_hex()[..N_FINGERPRINT_DIGITS].to_owned()
    }

    fn proof(&self, of: Side, nonces: &Nonces) -> blake3::Hash {
        let side = match of {
            Side::Connecting => b"c",
            Side::Accepting => b"a",
        };
        // Every field has a fixed length, so no two different transcripts are the same bytes.
        blake3::Hasher::new_keyed(&self.0)
            .update(PURPOSE)
            .update(&HELLO)
            .update(side)
            .update(&nonces.connecting)
            .update(&nonces.accepting)
            .finalize()
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(..)")
    }
}

struct Nonces {
    connecting: Bytes32,
    accepting: Bytes32,
}

/// Proves to the peer at the other end of `stream` that we have `key`, and has it prove the same.
///
/// Each side sends 72 bytes and reads 72, at most; a silent peer is the stream's deadline to
/// notice. Errors: the keys differ, or the other end is no peer (`Forbidden`, on both sides); the
/// stream ended or its deadline passed (`PeerLost`).
pub fn authenticate(stream: &mut (impl Read + Write), key: &ClusterKey, side: Side) -> Result<()> {
    match side {
        Side::Connecting => authenticate_connecting(stream, key),
        Side::Accepting => authenticate_accepting(stream, key),
    }
}

fn authenticate_connecting(stream: &mut (impl Read + Write), key: &ClusterKey) -> Result<()> {
    let connecting = send_hello(stream)?;
    let accepting = receive_hello(stream)?;
    let nonces = Nonces { connecting, accepting };
    send(stream, key.proof(Side::Connecting, &nonces).as_bytes())?;
    check(receive(stream)?, key.proof(Side::Accepting, &nonces))
}

fn authenticate_accepting(stream: &mut (impl Read + Write), key: &ClusterKey) -> Result<()> {
    let connecting = receive_hello(stream)?;
    let accepting = send_hello(stream)?;
    let nonces = Nonces { connecting, accepting };
    let checked = check(receive(stream)?, key.proof(Side::Connecting, &nonces));
    // A stranger gets no proof of ours to try keys on.
    let ours = match checked {
        Ok(()) => *key.proof(Side::Accepting, &nonces).as_bytes(),
        Err(_) => REFUSAL,
    };
    let sent = send(stream, &ours);
    checked.and(sent)
}

fn send_hello(stream: &mut impl Write) -> Result<Bytes32> {
    let nonce = crate::random::nonce();
    let mut hello = [0; HELLO.len() + 32];
    hello[..HELLO.len()].copy_from_slice(&HELLO);
    hello[HELLO.len()..].copy_from_slice(&nonce);
    send(stream, &hello)?;
    Ok(nonce)
}

fn receive_hello(stream: &mut impl Read) -> Result<Bytes32> {
    if receive::<{ HELLO.len() }>(stream)? != HELLO {
        let message = "the other end of the connection is no process of this version of Triptych";
        return Err(Error::new(ErrorKind::Forbidden, message));
    }
    receive(stream)
}

/// `blake3::Hash` compares in constant time.
fn check(theirs: Bytes32, expected: blake3::Hash) -> Result<()> {
    if blake3::Hash::from_bytes(theirs) == expected {
        return Ok(());
    }
    let message = format!(
        "the peer has another cluster key, or one of us has none: compare {SETTING} of both"
    );
    Err(Error::new(ErrorKind::Forbidden, message))
}

fn send(stream: &mut impl Write, bytes: &[u8]) -> Result<()> {
    stream.write_all(bytes).and_then(|()| stream.flush()).map_err(lost)
}

fn receive<const N: usize>(stream: &mut impl Read) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).map_err(lost)?;
    Ok(bytes)
}

fn lost(failure: io::Error) -> Error {
    let message = format!("the peer was lost before it had proved itself: {failure}");
    Error::new(ErrorKind::PeerLost, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread;

    /// One end of a pipe in memory; it ends when the other end is dropped.
    struct End {
        to_peer: Sender<u8>,
        from_peer: Receiver<u8>,
        /// All that was received, for replays.
        heard: Vec<u8>,
    }

    fn pipe() -> (End, End) {
        let ((a, from_a), (b, from_b)) = (channel(), channel());
        let end = |to_peer, from_peer| End { to_peer, from_peer, heard: Vec::new() };
        (end(a, from_b), end(b, from_a))
    }

    impl Read for End {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let Ok(byte) = self.from_peer.recv() else { return Ok(0) };
            into[0] = byte;
            self.heard.push(byte);
            Ok(1)
        }
    }

    impl Write for End {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
            bytes.iter().try_for_each(|&byte| self.to_peer.send(byte)).map_err(gone)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn key(secret: &str) -> ClusterKey {
        ClusterKey::from_bytes(secret.as_bytes()).unwrap()
    }

    fn ours() -> ClusterKey {
        key("the secret of this cluster")
    }

    /// What both sides say, and what the accepting side heard.
    fn meet(connecting: ClusterKey, accepting: ClusterKey) -> (Result<()>, Result<()>, Vec<u8>) {
        let (mut near, mut far) = pipe();
        let far = thread::spawn(move || {
            let said = authenticate(&mut far, &accepting, Side::Accepting);
            (said, far.heard)
        });
        let near = authenticate(&mut near, &connecting, Side::Connecting);
        let (far, heard) = far.join().unwrap();
        (near, far, heard)
    }

    /// What `side` says to a peer that sends `script` whatever it hears, and what that peer heard.
    fn face(side: Side, script: &[u8]) -> (Result<()>, Vec<u8>) {
        let (mut near, mut far) = pipe();
        far.write_all(script).unwrap();
        let End { to_peer, from_peer, .. } = far;
        drop(to_peer);
        let said = authenticate(&mut near, &ours(), side);
        drop(near);
        (said, from_peer.iter().collect())
    }

    fn kind(said: Result<()>) -> Option<ErrorKind> {
        said.err().map(|failure| failure.kind)
    }

    const N_SENT: usize = HELLO.len() + 64;

    #[test]
    fn equal_keys_know_each_other_and_others_do_not() {
        let other = || key("the secret of another one");
        let check = |connecting, accepting, expected| {
            let (near, far, _) = meet(connecting, accepting);
            if let Some(failure) = near.as_ref().err() {
                assert!(failure.message.contains(SETTING), "{failure}");
            }
            assert_eq!((kind(near), kind(far)), (expected, expected));
        };
        check(ours(), ours(), None);
        check(ClusterKey::open(), ClusterKey::open(), None);
        check(ours(), other(), Some(ErrorKind::Forbidden));
        check(ours(), ClusterKey::open(), Some(ErrorKind::Forbidden));
        check(ClusterKey::open(), ours(), Some(ErrorKind::Forbidden));
    }

    #[test]
    fn a_replayed_proof_proves_nothing() {
        let (near, far, heard) = meet(ours(), ours());
        assert_eq!((near, far, heard.len()), (Ok(()), Ok(()), N_SENT));
        assert_eq!(kind(face(Side::Accepting, &heard).0), Some(ErrorKind::Forbidden));
    }

    #[test]
    fn a_stranger_gets_no_proof_to_try_keys_on() {
        let mut script = HELLO.to_vec();
        script.extend([7; 64]);
        let (said, heard) = face(Side::Accepting, &script);
        assert_eq!(kind(said), Some(ErrorKind::Forbidden));
        assert_eq!(heard[N_SENT - 32..], REFUSAL);
    }

    #[test]
    fn our_own_proof_sent_back_proves_nothing() {
        let (mut near, mut far) = pipe();
        let mirror = thread::spawn(move || {
            let mut byte = [0];
            while far.read_exact(&mut byte).is_ok() && far.write_all(&byte).is_ok() {}
        });
        let said = authenticate(&mut near, &ours(), Side::Connecting);
        assert_eq!(kind(said), Some(ErrorKind::Forbidden));
        drop(near);
        mirror.join().unwrap();
    }

    #[test]
    fn whoever_speaks_otherwise_is_no_peer() {
        let next_version = *b"triptyc\x02";
        let cut = &HELLO[..5];
        for side in [Side::Connecting, Side::Accepting] {
            let check = |script: &[u8], expected| {
                assert_eq!(kind(face(side, script).0), Some(expected), "{side:?} {script:?}");
            };
            check(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", ErrorKind::Forbidden);
            check(&next_version, ErrorKind::Forbidden);
            check(&[0xFF; 4096], ErrorKind::Forbidden);
            check(&[&HELLO[..], &[9; 64]].concat(), ErrorKind::Forbidden);
            check(cut, ErrorKind::PeerLost);
            check(&[&HELLO[..], &[9; 31]].concat(), ErrorKind::PeerLost);
            check(&[&HELLO[..], &[9; 63]].concat(), ErrorKind::PeerLost);
            check(b"", ErrorKind::PeerLost);
        }
    }

    #[test]
    fn a_key_may_end_in_a_line_break_but_not_be_short() {
        let (near, far, _) = meet(key("the secret of this cluster\n"), ours());
        assert_eq!((near, far), (Ok(()), Ok(())));
        for short in ["", "\n", "fifteen bytes..\n", "    \n\n                  "] {
            let failure = ClusterKey::from_bytes(short.as_bytes()).unwrap_err();
            assert_eq!(failure.kind, ErrorKind::InvalidInput, "{short:?}");
        }
    }

    #[test]
    fn a_fingerprint_tells_keys_apart_and_holds_nothing_of_them() {
        let keys = [ours(), key("the secret of another one"), ClusterKey::open()];
        let prints: Vec<String> = keys.iter().map(ClusterKey::fingerprint).collect();
        assert!(prints[0] != prints[1] && prints[0] != prints[2] && prints[1] != prints[2]);
        assert_eq!(ours().fingerprint(), key("the secret of this cluster\n").fingerprint());
        for (key, print) in keys.iter().zip(&prints) {
            assert_eq!(print.len(), N_FINGERPRINT_DIGITS);
            assert!(!blake3::Hash::from_bytes(key.0).to_hex().contains(print.as_str()));
        }
    }

    #[test]
    fn a_key_is_never_shown() {
        assert_eq!(format!("{:?}", ours()), "ClusterKey(..)");
    }
}
