//! Transports for tests, and what to do where there is no UCX.

use futures::FutureExt;
use planes::conformance::{Clock, TransportSubject};
use planes::{ClusterKey, Transport};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use transport_ucx::UcxConfig;
use types::Result;

pub(crate) const CLOCK: Clock = Clock { sleep: |duration| tokio::time::sleep(duration).boxed() };

pub(crate) fn key(secret: &str) -> ClusterKey {
    ClusterKey::from_bytes(secret.as_bytes()).unwrap()
}

pub(crate) fn start_with(key: ClusterKey) -> Result<Arc<dyn Transport>> {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    transport_ucx::start(UcxConfig { listen, advertise: None, key })
}

/// A transport with the key of all tests. Where there is no UCX, the tests of this process end:
/// with a failure on a machine that is there to find failures, else in peace.
pub(crate) fn start() -> Arc<dyn Transport> {
    if let Err(failure) = transport_ucx::check() {
        assert!(std::env::var_os("CI").is_none(), "{failure} (install libucx0 for these tests)");
        println!("skipped: {failure}");
        std::process::exit(0);
    }
    start_with(key("the key of all these tests")).unwrap()
}

pub(crate) fn subject() -> TransportSubject {
    TransportSubject { owner: start(), reader: start(), clock: CLOCK }
}
