//! The beginning of each connection: deadlines are set, and both sides prove themselves.

use crate::limits::{HANDSHAKE_MAX, TICK};
use crate::waiting::Hurried;
use planes::{ClusterKey, Side};
use std::io;
use std::net::TcpStream;
use std::time::Duration;
use types::Result;

/// Makes a fresh connection one of peers.
///
/// Errors: the keys differ (`Forbidden`), or the other end is slow or gone (`PeerLost`).
pub(crate) fn shake_hands(stream: &TcpStream, key: &ClusterKey, side: Side) -> Result<()> {
    let lost = |failure: io::Error| crate::lost(&failure.to_string());
    stream.set_nodelay(true).map_err(lost)?;
    set_timeouts(stream, HANDSHAKE_MAX).map_err(lost)?;
    planes::authenticate(&mut Hurried::new(stream, HANDSHAKE_MAX), key, side)?;
    set_timeouts(stream, TICK).map_err(lost)
}

fn set_timeouts(stream: &TcpStream, timeout: Duration) -> io::Result<()> {
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))
}
