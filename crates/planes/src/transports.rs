//! Several transports as one: every address is served, and a read takes the first that both share.

use crate::lease::LeaseTable;
use crate::transport::{Destination, RemoteHandle, Source, Transport};
use crate::withdraw::Withdraw;
use futures::FutureExt;
use futures::future::{BoxFuture, try_join_all};
use std::sync::Arc;
use types::{Error, ErrorKind, Result};

/// Transports in the order in which an owner recommends them.
pub struct Transports(Vec<Arc<dyn Transport>>);

impl Transports {
    /// `transports`, best first.
    pub fn new(transports: Vec<Arc<dyn Transport>>) -> Self {
        Self(transports)
    }

    /// Ours for the first of an owner's addresses that we speak, and that address.
    fn shared(&self, addresses: &[String]) -> Result<(&dyn Transport, String)> {
        let ours = |address: &String| {
            let found = self.0.iter().find(|transport| transport.speaks(address))?;
            Some((&**found, address.clone()))
        };
        addresses.iter().find_map(ours).ok_or_else(|| {
            let theirs = addresses.join(", ");
            let message = format!("no transport is shared with the owner, who serves [{theirs}]");
            Error::new(ErrorKind::PeerLost, message)
        })
    }
}

impl Transport for Transports {
    fn serve(
        &self,
        leases: Arc<LeaseTable>,
    ) -> BoxFuture<'static, Result<(Vec<String>, Withdraw)>> {
        let served: Vec<_> =
            self.0.iter().map(|transport| transport.serve(Arc::clone(&leases))).collect();
        async move {
            let (addresses, all): (Vec<_>, Vec<_>) =
                try_join_all(served).await?.into_iter().unzip();
            Ok((addresses.concat(), Withdraw::on_drop(move || drop(all))))
        }
        .boxed()
    }

    fn speaks(&self, address: &str) -> bool {
        self.0.iter().any(|transport| transport.speaks(address))
    }

    fn connect(&self, transports: &[String]) -> BoxFuture<'static, Result<()>> {
        match self.shared(transports) {
            Ok((transport, address)) => transport.connect(&[address]),
            Err(failure) => async move { Err(failure) }.boxed(),
        }
    }

    fn read(
        &self,
        from: RemoteHandle,
        sources: Vec<Source>,
        into: Destination,
    ) -> BoxFuture<'static, Result<Destination>> {
        let shared = into
            .regions
            .iter()
            .try_for_each(|region| region.on_host().map(|_| ()))
            .and_then(|()| self.shared(&from.transports));
        match shared {
            Ok((transport, address)) => {
                transport.read(RemoteHandle { transports: vec![address], ..from }, sources, into)
            }
            Err(failure) => async move { Err(failure) }.boxed(),
        }
    }
}
