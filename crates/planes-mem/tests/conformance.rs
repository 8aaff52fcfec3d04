//! The in-memory planes obey the laws of the planes.

use futures::FutureExt;
use planes::conformance::{Clock, DiscoverySubject, MessagingSubject, TransportSubject};
use std::sync::Arc;

const CLOCK: Clock = Clock { sleep: |duration| tokio::time::sleep(duration).boxed() };

fn discovery() -> DiscoverySubject {
    let near = planes_mem::planes().discovery;
    DiscoverySubject { far: Arc::clone(&near), near, clock: CLOCK }
}

fn messaging() -> MessagingSubject {
    let callee = planes_mem::planes().messaging;
    MessagingSubject { caller: Arc::clone(&callee), callee, clock: CLOCK }
}

fn transport() -> TransportSubject {
    let owner = planes_mem::planes().transport;
    TransportSubject { reader: Arc::clone(&owner), owner, clock: CLOCK }
}

planes::discovery_laws!(tokio::test, discovery());
planes::messaging_laws!(tokio::test, messaging());
planes::transport_laws!(tokio::test, transport());
