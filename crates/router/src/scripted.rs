//! Planes for tests: workers that say what a script says, whatever they are asked.

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use planes::{
    Address, Call, Destination, Discovery, Handler, Instance, LeaseTable, MembershipEvent,
    Messaging, Planes, RemoteHandle, Replies, Source, Transport, Withdraw,
};
use std::collections::HashMap;
use std::sync::Arc;
use types::{Error, Result};
use wire::message::Reply;

/// What is said at each address; then the stream ends.
pub(crate) type Scripts = HashMap<Address, Vec<Result<Reply>>>;

/// Planes that show `instances`, whose workers say what `scripts` has for their address.
pub(crate) fn planes(instances: Vec<Instance>, scripts: Scripts) -> Planes {
    Planes {
        discovery: Arc::new(Shown(instances)),
        messaging: Arc::new(Scripted(scripts)),
        transport: Arc::new(NoTransport),
        are_apart: false,
    }
}

/// Messaging alone.
pub(crate) struct Scripted(pub(crate) Scripts);

impl Messaging for Scripted {
    fn call(&self, address: &Address, _: Call) -> Replies {
        let said = self.0.get(address).cloned().unwrap_or_default();
        stream::iter(said).map(|reply| reply.map(|reply| wire::encode_reply(&reply))).boxed()
    }

    fn serve(&self, _: &Address, _: Arc<dyn Handler>) -> BoxFuture<'static, Result<Withdraw>> {
        unreachable!("a router answers no calls")
    }
}

struct Shown(Vec<Instance>);

impl Discovery for Shown {
    fn register(&self, _: Instance) -> BoxFuture<'static, Result<Withdraw>> {
        unreachable!("a router registers nothing")
    }

    fn watch(&self) -> BoxStream<'static, MembershipEvent> {
        let snapshot = MembershipEvent::Snapshot(self.0.clone());
        stream::iter([snapshot]).chain(stream::pending()).boxed()
    }
}

struct NoTransport;

impl Transport for NoTransport {
    fn serve(&self, _: Arc<LeaseTable>) -> BoxFuture<'static, Result<(Vec<String>, Withdraw)>> {
        async { Ok((Vec::new(), Withdraw::on_drop(|| {}))) }.boxed()
    }

    fn speaks(&self, _: &str) -> bool {
        false
    }

    fn connect(&self, _: &[String]) -> BoxFuture<'static, Result<()>> {
        unreachable!("a router connects to nobody")
    }

    fn read(
        &self,
        _: RemoteHandle,
        _: Vec<Source>,
        into: Destination,
    ) -> BoxFuture<'static, Result<Destination>> {
        drop(into);
        async { Err(Error::internal("a router reads nothing")) }.boxed()
    }
}
