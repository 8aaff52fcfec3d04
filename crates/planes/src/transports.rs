//! Several transports as one: every address is served, and a read takes the first that both share;
//! where that cannot be used at the moment (`Unavailable`), the next.

use crate::handed::Handed;
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

    /// Those of an owner's addresses that we speak, in its order, each with ours for it.
    ///
    /// Errors: there is none (`PeerLost`).
    fn ways(&self, addresses: &[String]) -> Result<Vec<Way>> {
        let ours = |address: &String| {
            let found = self.0.iter().find(|transport| transport.speaks(address))?;
            Some((Arc::clone(found), address.clone()))
        };
        let ways: Vec<Way> = addresses.iter().filter_map(ours).collect();
        if !ways.is_empty() {
            return Ok(ways);
        }
        let theirs = addresses.join(", ");
        let message = format!("no transport is shared with the owner, who serves [{theirs}]");
        Err(Error::new(ErrorKind::PeerLost, message))
    }
}

/// A transport of ours, and an owner's address that it speaks.
type Way = (Arc<dyn Transport>, String);

/// Whether the next way may do what this one could not.
fn is_closed<T>(outcome: &Result<T>) -> bool {
    outcome.as_ref().is_err_and(|failure| failure.kind == ErrorKind::Unavailable)
}

async fn connect(ways: Vec<Way>) -> Result<()> {
    let mut outcome = Ok(());
    for (transport, address) in ways {
        outcome = transport.connect(std::slice::from_ref(&address)).await;
        if outcome.is_ok() {
            tracing::debug!("the memory of an owner is reached at {address}");
        }
        if !is_closed(&outcome) {
            break;
        }
    }
    outcome
}

/// Reads by the first of `ways`; by the next only if the one before has let go of the memory.
fn read(
    ways: Vec<Way>,
    from: RemoteHandle,
    sources: Vec<Source>,
    into: Destination,
) -> BoxFuture<'static, Result<Destination>> {
    let mut handed = Handed::new(into);
    let by = move |(transport, address): Way, into| {
        let RemoteHandle { lease, secret, .. } = from;
        let from =
            RemoteHandle { owner: from.owner.clone(), transports: vec![address], lease, secret };
        transport.read(from, sources.clone(), into)
    };
    let mut ways = ways.into_iter();
    // The first is under way when this returns, as reads of a transport may be.
    let begun = ways.next().map(|way| by(way, handed.hand()));
    async move {
        let mut outcome = match begun {
            Some(reading) => reading.await,
            None => Err(Error::internal("there is no way to read by")),
        };
        for way in ways {
            if !is_closed(&outcome) || !handed.is_back() {
                break;
            }
            outcome = by(way, handed.hand()).await;
        }
        handed.regain(outcome?)
    }
    .boxed()
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
        let ways = self.ways(transports);
        async move { connect(ways?).await }.boxed()
    }

    fn read(
        &self,
        from: RemoteHandle,
        sources: Vec<Source>,
        into: Destination,
    ) -> BoxFuture<'static, Result<Destination>> {
        let ways = into
            .regions
            .iter()
            .try_for_each(|region| region.on_host().map(|_| ()))
            .and_then(|()| self.ways(&from.transports));
        match ways {
            Ok(ways) => match &ways[..] {
                [(transport, address)] => {
                    let transports = vec![address.clone()];
                    transport.read(RemoteHandle { transports, ..from }, sources, into)
                }
                _ => read(ways, from, sources, into),
            },
            Err(failure) => async move { Err(failure) }.boxed(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messaging::Address;
    use futures::executor::block_on;
    use std::sync::Mutex;
    use types::{LeaseId, Secret};

    /// A transport that notes the addresses it is asked for, and moves nothing.
    struct Noting {
        scheme: &'static str,
        asked: Arc<Mutex<Vec<String>>>,
    }

    impl Noting {
        fn note(&self, addresses: &[String]) {
            self.asked.lock().unwrap().extend_from_slice(addresses);
        }
    }

    impl Transport for Noting {
        fn serve(
            &self,
            _leases: Arc<LeaseTable>,
        ) -> BoxFuture<'static, Result<(Vec<String>, Withdraw)>> {
            let address = format!("{}://here", self.scheme);
            async move { Ok((vec![address], Withdraw::on_drop(|| ()))) }.boxed()
        }

        fn speaks(&self, address: &str) -> bool {
            address.split("://").next() == Some(self.scheme)
        }

        fn connect(&self, transports: &[String]) -> BoxFuture<'static, Result<()>> {
            self.note(transports);
            async { Ok(()) }.boxed()
        }

        fn read(
            &self,
            from: RemoteHandle,
            _sources: Vec<Source>,
            into: Destination,
        ) -> BoxFuture<'static, Result<Destination>> {
            self.note(&from.transports);
            async move { Ok(into) }.boxed()
        }
    }

    /// Transports of these schemes, and where they note what they are asked for.
    fn transports(schemes: &[&'static str]) -> (Transports, Arc<Mutex<Vec<String>>>) {
        let asked = Arc::new(Mutex::default());
        let noting = |&scheme: &&'static str| -> Arc<dyn Transport> {
            Arc::new(Noting { scheme, asked: Arc::clone(&asked) })
        };
        (Transports::new(schemes.iter().map(noting).collect()), asked)
    }

    fn read(reader: &Transports, addresses: &[String]) -> Result<()> {
        let from = RemoteHandle {
            owner: Address("owner".into()),
            transports: addresses.to_vec(),
            lease: LeaseId { slot: 0, generation: 0 },
            secret: Secret(0),
        };
        let into = Destination { regions: Vec::new(), keep: Box::new(()) };
        block_on(reader.read(from, Vec::new(), into)).map(drop)
    }

    #[test]
    fn every_address_is_served_best_first() {
        let (owner, _) = transports(&["fast", "slow"]);
        let (addresses, _served) = block_on(owner.serve(Arc::new(LeaseTable::default()))).unwrap();
        assert_eq!(addresses, ["fast://here", "slow://here"]);
    }

    #[test]
    fn a_reader_takes_the_first_that_both_have() {
        let check = |ours: &[&'static str], theirs: &[&str], expected: &str| {
            let theirs: Vec<String> = theirs.iter().map(|scheme| format!("{scheme}://o")).collect();
            let (reader, asked) = transports(ours);
            block_on(reader.connect(&theirs)).unwrap();
            read(&reader, &theirs).unwrap();
            let both = [expected, expected].map(|scheme| format!("{scheme}://o"));
            assert_eq!(*asked.lock().unwrap(), both, "{ours:?} of {theirs:?}");
        };
        check(&["fast", "slow"], &["fast", "slow"], "fast");
        check(&["slow"], &["fast", "slow"], "slow");
        check(&["fast", "slow"], &["slow"], "slow");
        // The owner knows its memory best.
        check(&["slow", "fast"], &["fast", "slow"], "fast");
        check(&["fast", "slow"], &["unheard-of", "slow"], "slow");
    }

    #[test]
    fn where_none_is_shared_the_owner_is_lost_in_words() {
        let (reader, asked) = transports(&["fast"]);
        let theirs = ["slow://o".to_owned()];
        for failure in [block_on(reader.connect(&theirs)), read(&reader, &theirs)] {
            let failure = failure.unwrap_err();
            assert_eq!(failure.kind, ErrorKind::PeerLost);
            assert!(failure.message.contains("[slow://o]"), "{failure}");
        }
        assert!(asked.lock().unwrap().is_empty());
        assert!(reader.speaks("fast://o") && !reader.speaks("slow://o"));
    }
}
