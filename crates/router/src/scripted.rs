//! Planes for tests: workers that say what a script has for what they are asked.

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use planes::{
    Address, Call, Destination, Discovery, Handler, Instance, LeaseTable, MembershipEvent,
    Messaging, Planes, RemoteHandle, Replies, Source, Transport, Withdraw,
};
use std::sync::Arc;
use types::{Error, Result};
use wire::message::{Reply, Request};

/// What a worker says to a call.
pub(crate) struct Script {
    said: Vec<Result<Reply>>,
    stays: bool,
}

impl Script {
    /// This, and then the end.
    pub(crate) fn ends(said: Vec<Result<Reply>>) -> Self {
        Self { said, stays: false }
    }

    /// This, and then nothing more.
    pub(crate) fn stays(said: Vec<Result<Reply>>) -> Self {
        Self { said, stays: true }
    }
}

/// Planes that show `instances`, who say what `says` has.
pub(crate) fn planes(
    instances: Vec<Instance>,
    says: impl Fn(&Address, &Request) -> Script + Send + Sync + 'static,
) -> Planes {
    Planes {
        discovery: Arc::new(Shown(instances)),
        messaging: Arc::new(Scripted(says)),
        transport: Arc::new(NoTransport),
        are_apart: false,
    }
}

/// Messaging alone.
pub(crate) struct Scripted<F>(pub(crate) F);

impl<F: Fn(&Address, &Request) -> Script + Send + Sync> Messaging for Scripted<F> {
    fn call(&self, address: &Address, call: Call) -> Replies {
        let request = wire::decode_request(call.body).expect("the router's own request");
        let Script { said, stays } = (self.0)(address, &request);
        let said = stream::iter(said).map(|reply| reply.map(|reply| wire::encode_reply(&reply)));
        if stays { said.chain(stream::pending()).boxed() } else { said.boxed() }
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
