//! Transports for tests, and what to do where there is no UCX.

use futures::FutureExt;
use planes::conformance::{Clock, TransportSubject};
use planes::{
    Address, ClusterKey, Destination, LeaseTable, LeasedMemory, Region, RemoteHandle, Transport,
    Withdraw,
};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
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

/// The owner's address for messages, which no transport uses.
pub(crate) fn here() -> Address {
    Address("test.owner".into())
}

/// What a test lends: every eight bytes are other ones.
pub(crate) fn pattern(n_bytes: usize) -> Vec<u8> {
    let word = |i: usize| (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes();
    (0..n_bytes / 8).flat_map(word).collect()
}

/// Somewhere to land, which ends with the read.
pub(crate) fn destination(n_bytes: usize) -> Destination {
    let mut memory = vec![0_u8; n_bytes];
    // SAFETY: the vector is moved beside the region and never touched.
    let region = unsafe { Region::new(memory.as_mut_ptr(), n_bytes) };
    Destination { regions: vec![region], keep: Box::new(memory) }
}

/// Lends `n_bytes` of the pattern for as long as a test may take, beside something to be kept.
pub(crate) async fn lend(
    owner: &Arc<dyn Transport>,
    table: &Arc<LeaseTable>,
    n_bytes: usize,
    kept: Arc<()>,
) -> (RemoteHandle, Withdraw) {
    let (transports, served) = owner.serve(Arc::clone(table)).await.unwrap();
    let mut memory = pattern(n_bytes);
    // SAFETY: the vector is moved beside the region and never touched.
    let region = unsafe { Region::new(memory.as_mut_ptr(), n_bytes) };
    let leased = LeasedMemory { regions: vec![region], keep: Box::new((memory, kept)) };
    let until = Instant::now() + Duration::from_secs(600);
    let (lease, secret) = table.grant(leased, until).unwrap();
    (RemoteHandle { owner: here(), transports, lease, secret }, served)
}
