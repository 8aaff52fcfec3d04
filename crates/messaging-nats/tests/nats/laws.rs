//! Two connections to one server obey the laws of messaging.

use crate::support::{CLOCK, Server, connect};
use futures::future::BoxFuture;
use messaging_nats::NatsMessaging;
use planes::conformance::MessagingSubject;
use planes::{Address, Call, Handler, Messaging, Replies, Withdraw};
use std::sync::Arc;
use types::Result;

/// A connection that keeps its server.
struct WithServer {
    messaging: Arc<NatsMessaging>,
    _server: Server,
}

impl Messaging for WithServer {
    fn call(&self, address: &Address, call: Call) -> Replies {
        self.messaging.call(address, call)
    }

    fn serve(
        &self,
        address: &Address,
        handler: Arc<dyn Handler>,
    ) -> BoxFuture<'static, Result<Withdraw>> {
        self.messaging.serve(address, handler)
    }
}

async fn subject() -> MessagingSubject {
    let server = Server::start(&[]);
    let callee = connect(&server).await;
    let caller = Arc::new(WithServer { messaging: connect(&server).await, _server: server });
    MessagingSubject { callee, caller, clock: CLOCK }
}

planes::messaging_laws!(tokio::test(flavor = "multi_thread"), subject().await);
