//! Two connections to one server obey the laws of messaging.

use crate::support::{CLOCK, Server, connect};
use planes::conformance::MessagingSubject;
use std::sync::Mutex;

/// The servers of this process; they stop when it ends, as nothing drops a static.
static SERVERS: Mutex<Vec<Server>> = Mutex::new(Vec::new());

async fn subject() -> MessagingSubject {
    let server = Server::start(&[]);
    let (callee, caller) = (connect(&server).await, connect(&server).await);
    SERVERS.lock().unwrap().push(server);
    MessagingSubject { callee, caller, clock: CLOCK }
}

planes::messaging_laws!(tokio::test(flavor = "multi_thread"), subject().await);
