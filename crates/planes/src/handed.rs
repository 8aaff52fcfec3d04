//! A destination that one transport may have after the other, while nobody else writes to it.

use crate::transport::{Destination, Region};
use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};
use types::{Error, Result};

/// See the file's description. The memory is kept until this and all that was handed
/// over are dropped.
pub(crate) struct Handed {
    regions: Vec<Region>,
    /// Behind a lock only because what keeps memory need not be shared among threads.
    keep: Arc<Mutex<Box<dyn Any + Send>>>,
}

impl Handed {
    pub(crate) fn new(Destination { regions, keep }: Destination) -> Self {
        Self { regions, keep: Arc::new(Mutex::new(keep)) }
    }

    /// For a transport. Nobody else may have it, see [`Handed::is_back`].
    pub(crate) fn hand(&self) -> Destination {
        Destination { regions: self.regions.clone(), keep: Box::new(Arc::clone(&self.keep)) }
    }

    /// Whether whoever had it has let go of it, so that nothing more lands in it.
    pub(crate) fn is_back(&mut self) -> bool {
        Arc::get_mut(&mut self.keep).is_some()
    }

    /// What was handed over, in its first form, after a read that has filled it.
    ///
    /// Errors: somebody still has it (`Internal`).
    pub(crate) fn regain(self, filled: Destination) -> Result<Destination> {
        drop(filled);
        let keep = Arc::into_inner(self.keep)
            .ok_or_else(|| Error::internal("a transport kept what it gave back"))?;
        let keep = keep.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(Destination { regions: self.regions, keep })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Address, LeaseTable, RemoteHandle, Source, Transport, Transports, Withdraw};
    use futures::FutureExt;
    use futures::executor::block_on;
    use futures::future::BoxFuture;
    use types::{ErrorKind, LeaseId, Secret};

    /// What a transport does with whatever is asked of it.
    #[derive(Clone, Copy, PartialEq)]
    enum Manner {
        Works,
        Fails(ErrorKind),
        /// As one that is closed and whose memory may still be written.
        FailsAndKeeps,
    }

    struct Mannered {
        scheme: &'static str,
        manner: Manner,
        kept: Mutex<Option<Destination>>,
    }

    impl Mannered {
        fn outcome<T>(&self, value: T) -> Result<T> {
            let kind = match self.manner {
                Manner::Works => return Ok(value),
                Manner::Fails(kind) => kind,
                Manner::FailsAndKeeps => ErrorKind::Unavailable,
            };
            Err(Error::new(kind, self.scheme))
        }
    }

    impl Transport for Mannered {
        fn serve(
            &self,
            _leases: Arc<LeaseTable>,
        ) -> BoxFuture<'static, Result<(Vec<String>, Withdraw)>> {
            async { Err(Error::internal("nobody lends here")) }.boxed()
        }

        fn speaks(&self, address: &str) -> bool {
            address.starts_with(self.scheme)
        }

        fn connect(&self, _transports: &[String]) -> BoxFuture<'static, Result<()>> {
            let outcome = self.outcome(());
            async { outcome }.boxed()
        }

        fn read(
            &self,
            from: RemoteHandle,
            _sources: Vec<Source>,
            into: Destination,
        ) -> BoxFuture<'static, Result<Destination>> {
            assert!(from.transports.len() == 1 && self.speaks(&from.transports[0]));
            let outcome = if self.manner == Manner::FailsAndKeeps {
                *self.kept.lock().unwrap() = Some(into);
                Err(Error::new(ErrorKind::Unavailable, self.scheme))
            } else {
                self.outcome(into)
            };
            async { outcome }.boxed()
        }
    }

    /// How reads and connections by these transports end: well, or with which word of whom.
    fn check(manners: [Manner; 2], read: Option<&str>, connected: Option<&str>) {
        let mannered = |(scheme, manner)| -> Arc<dyn Transport> {
            Arc::new(Mannered { scheme, manner, kept: Mutex::default() })
        };
        let reader =
            Transports::new(["fast", "slow"].into_iter().zip(manners).map(mannered).collect());
        let transports = vec!["fast://o".to_owned(), "slow://o".to_owned()];
        let outcome = block_on(reader.connect(&transports)).map_err(|failure| failure.message);
        assert_eq!(outcome.err().as_deref(), connected);
        let (lease, secret) = (LeaseId { slot: 0, generation: 0 }, Secret(0));
        let from = RemoteHandle { owner: Address("o".into()), transports, lease, secret };
        let into = Destination { regions: Vec::new(), keep: Box::new(7_u32) };
        match block_on(reader.read(from, Vec::new(), into)) {
            Ok(landed) => {
                assert_eq!(landed.keep.downcast_ref(), Some(&7_u32), "it comes back as it was");
                assert_eq!(read, None);
            }
            Err(failure) => assert_eq!(Some(&failure.message[..]), read),
        }
    }

    #[test]
    fn what_one_transport_cannot_do_at_the_moment_the_next_does() {
        use ErrorKind::{PeerLost, Unavailable};
        use Manner::{Fails, FailsAndKeeps, Works};
        check([Works, Fails(Unavailable)], None, None);
        check([Fails(Unavailable), Works], None, None);
        check([Fails(PeerLost), Works], Some("fast"), Some("fast"));
        check([Fails(Unavailable), Fails(PeerLost)], Some("slow"), Some("slow"));
        check([Fails(Unavailable), Fails(Unavailable)], Some("slow"), Some("slow"));
        // Two must not write to the same memory.
        check([FailsAndKeeps, Works], Some("fast"), None);
    }

    #[test]
    fn whoever_has_it_keeps_the_memory() {
        let kept = Arc::new(());
        let into = Destination { regions: Vec::new(), keep: Box::new(Arc::clone(&kept)) };
        let mut handed = Handed::new(into);
        let out = handed.hand();
        assert!(!handed.is_back());
        drop(handed);
        assert_eq!(Arc::strong_count(&kept), 2);
        drop(out);
        assert_eq!(Arc::strong_count(&kept), 1);
    }
}
