//! Messaging that notes every call, shows it to the test first, and holds back those that the test
//! wants held.

use futures::{StreamExt, stream};
use planes::{Address, Call, Handler, Messaging, Planes, Replies, Withdraw};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;
use types::Result;
use types::stage::{Stage, Stages};
use wire::message::Request;

/// Looks at a call before it is made; true holds it back.
type Look = dyn Fn(&Request) -> bool + Send + Sync;

pub(crate) struct Told {
    inner: Arc<dyn Messaging>,
    look: Box<Look>,
    open: Arc<Semaphore>,
    calls: Mutex<Vec<ToldCall>>,
}

/// A call that was made.
#[derive(Clone)]
pub(crate) struct ToldCall {
    pub(crate) request: Request,
    pub(crate) deadline: Duration,
    pub(crate) trace: String,
}

/// Whether it asks for this stage and no other.
pub(crate) fn runs_alone(request: &Request, stage: Stage) -> bool {
    let Request::Run(run) = request else { return false };
    run.stages == Stages::of(&[stage])
}

impl Told {
    pub(crate) fn around(
        planes: Planes,
        look: impl Fn(&Request) -> bool + Send + Sync + 'static,
    ) -> (Arc<Self>, Planes) {
        let told = Arc::new(Self {
            inner: planes.messaging,
            look: Box::new(look),
            open: Arc::new(Semaphore::new(0)),
            calls: Mutex::default(),
        });
        (Arc::clone(&told), Planes { messaging: told, ..planes })
    }

    /// Lets the calls go that are held back, and all others.
    pub(crate) fn open(&self) {
        self.open.add_permits(Semaphore::MAX_PERMITS / 2);
    }

    /// All calls so far.
    pub(crate) fn calls(&self) -> Vec<ToldCall> {
        self.calls.lock().unwrap().clone()
    }
}

impl Messaging for Told {
    fn call(&self, address: &Address, call: Call) -> Replies {
        let request = wire::decode_request(call.body.clone()).unwrap();
        let is_held = (self.look)(&request);
        let (deadline, trace) = (call.deadline, call.trace.clone());
        self.calls.lock().unwrap().push(ToldCall { request, deadline, trace });
        if !is_held {
            return self.inner.call(address, call);
        }
        let (inner, address, open) =
            (Arc::clone(&self.inner), address.clone(), Arc::clone(&self.open));
        let later = async move {
            let _turn = open.acquire().await;
            inner.call(&address, call)
        };
        stream::once(later).flatten().boxed()
    }

    fn serve(
        &self,
        address: &Address,
        handler: Arc<dyn Handler>,
    ) -> futures::future::BoxFuture<'static, Result<Withdraw>> {
        self.inner.serve(address, handler)
    }
}
