//! What tests lend, read and compare.

use planes::{
    Address, ClusterKey, Destination, LeasedMemory, Region, RemoteHandle, Source, Transport,
};
use std::sync::Arc;
use transport_tcp::{TcpConfig, start};
use types::{LeaseId, Secret};

pub(crate) const START: Source = Source { region_idx: 0, offset: 0 };

pub(crate) fn key() -> ClusterKey {
    ClusterKey::from_bytes(b"the key of this cluster").unwrap()
}

/// A transport on a free port of this machine.
pub(crate) fn transport() -> Arc<dyn Transport> {
    transport_with(key())
}

pub(crate) fn transport_with(key: ClusterKey) -> Arc<dyn Transport> {
    start(TcpConfig { listen: ([127, 0, 0, 1], 0).into(), advertise: None, key }).unwrap()
}

/// The byte that every owner of these tests has at `idx`.
pub(crate) fn byte(idx: usize) -> u8 {
    (idx * 31 + idx / 257) as u8
}

/// Memory with these bytes, and a source that is valid for as long as it is leased.
pub(crate) fn memory(n_bytes: usize) -> LeasedMemory {
    let mut bytes: Vec<u8> = (0..n_bytes).map(byte).collect();
    // SAFETY: the vector is moved beside the region and never touched again.
    let region = unsafe { Region::new(bytes.as_mut_ptr(), n_bytes) };
    LeasedMemory { regions: vec![region], keep: Box::new(bytes) }
}

pub(crate) fn landing(n_bytes: usize) -> Destination {
    let mut bytes = vec![0xAA_u8; n_bytes];
    // SAFETY: the vector is moved beside the region and never touched until it comes back.
    let region = unsafe { Region::new(bytes.as_mut_ptr(), n_bytes) };
    Destination { regions: vec![region], keep: Box::new(bytes) }
}

pub(crate) fn landed(destination: Destination) -> Vec<u8> {
    *destination.keep.downcast().unwrap()
}

pub(crate) fn handle(transports: Vec<String>, (lease, secret): (LeaseId, Secret)) -> RemoteHandle {
    RemoteHandle { owner: Address("test.owner".into()), transports, lease, secret }
}
