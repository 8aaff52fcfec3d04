//! How many bytes of media a worker holds at once: those of a request are taken together, first
//! come, first served, so that no two requests wait for each other.
//!
//! How large a medium is that must be fetched is not known before. So each gets what is usual, and
//! whatever is larger must find the rest free when it comes: it does not wait while it holds.

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use types::{Error, ErrorKind, Result};
use wire::message::{Medium, MediumSource};

/// Bytes that one permit of the semaphore stands for.
const N_UNIT_BYTES: u64 = 1024;

/// What is taken beforehand for a medium of unknown size.
const N_USUAL_BYTES: u64 = 4 << 20;

/// A share of a process's memory, for media.
pub(crate) struct MediaMemory {
    units: Arc<Semaphore>,
    n_units: u32,
}

/// Memory held for one medium, until this is dropped.
pub(crate) struct MediaHold {
    units: Arc<Semaphore>,
    held: OwnedSemaphorePermit,
}

impl MediaMemory {
    pub(crate) fn new(n_bytes_max: u64) -> Self {
        let n_units = n_units(n_bytes_max).max(1);
        // A semaphore's own limit is below 2^61 on 64-bit machines.
        Self { units: Arc::new(Semaphore::new(n_units as usize)), n_units }
    }

    /// Takes memory for each of `media`, waiting for the turn of all, for `patience` at most.
    ///
    /// Errors: more than there is (`TooLarge`), or none became free (`Overloaded`).
    pub(crate) async fn hold(
        &self,
        media: &[Medium],
        file_bytes_max: u64,
        patience: Duration,
    ) -> Result<Vec<MediaHold>> {
        let unknown = N_USUAL_BYTES.min(file_bytes_max).min(self.fair_share(media.len()));
        let sizes = media.iter().map(|medium| n_units(n_bytes(medium, file_bytes_max, unknown)));
        let sizes: Vec<u32> = sizes.collect();
        let n_all = sizes.iter().fold(0_u32, |sum, size| sum.saturating_add(*size));
        if n_all > self.n_units {
            let message = "the media of this request are more than this server holds at once";
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        let mut all = self.take(n_all, patience).await?;
        let one = |size| {
            let held = all.split(size as usize)?;
            Some(MediaHold { units: Arc::clone(&self.units), held })
        };
        let holds: Option<Vec<_>> = sizes.into_iter().map(one).collect();
        holds.ok_or_else(|| Error::internal("memory for media was miscounted"))
    }

    /// Waits for `n_bytes`, or for all there is where that is less. Errors: as for `hold`.
    pub(crate) async fn share(
        &self,
        n_bytes: u64,
        patience: Duration,
    ) -> Result<OwnedSemaphorePermit> {
        self.take(n_units(n_bytes).min(self.n_units), patience).await
    }

    async fn take(&self, n_units: u32, patience: Duration) -> Result<OwnedSemaphorePermit> {
        let turn = Arc::clone(&self.units).acquire_many_owned(n_units);
        timeout(patience, turn).await.map_err(|_| full())?.map_err(|_| full())
    }

    /// What each of `n_media` can have if they have all there is, in bytes.
    fn fair_share(&self, n_media: usize) -> u64 {
        u64::from(self.n_units) / (n_media as u64).max(1) * N_UNIT_BYTES
    }
}

impl MediaHold {
    /// Makes sure that `n_bytes` are held in all, without waiting. Errors: they are not free.
    pub(crate) fn grow(&mut self, n_bytes: usize) -> Result<()> {
        let lacking = (n_units(n_bytes as u64) as usize).saturating_sub(self.held.num_permits());
        if lacking > 0 {
            let lacking = u32::try_from(lacking).map_err(|_| full())?;
            let more = Arc::clone(&self.units).try_acquire_many_owned(lacking);
            self.held.merge(more.map_err(|_| full())?);
        }
        Ok(())
    }

    /// Gives back what is held beyond `n_bytes`.
    pub(crate) fn shrink(&mut self, n_bytes: usize) {
        let needed = n_units(n_bytes as u64) as usize;
        drop(self.held.split(self.held.num_permits().saturating_sub(needed)));
    }
}

fn n_units(n_bytes: u64) -> u32 {
    u32::try_from(n_bytes.div_ceil(N_UNIT_BYTES)).unwrap_or(u32::MAX)
}

/// The size of a medium, or `unknown`.
fn n_bytes(medium: &Medium, file_bytes_max: u64, unknown: u64) -> u64 {
    match &medium.source {
        MediumSource::Inline(bytes) => bytes.len() as u64,
        MediumSource::Lent { n_bytes, .. } => *n_bytes as u64,
        MediumSource::Path(path) => {
            // A file that is out of reach is refused later, in the words for that.
            std::fs::metadata(path).map_or(0, |file| file.len().min(file_bytes_max))
        }
        MediumSource::Url(_) => unknown,
    }
}

fn full() -> Error {
    Error::new(ErrorKind::Overloaded, "no memory for media became free")
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::media::MediaKind;

    const FILE_BYTES_MAX: u64 = 1 << 20;
    const LONG: Duration = Duration::from_secs(60);

    fn medium(source: MediumSource) -> Medium {
        Medium {
            kind: MediaKind::Image,
            source,
            uuid: None,
            processor_options: String::new(),
            param: String::new(),
        }
    }

    fn inline(n_bytes: usize) -> Medium {
        medium(MediumSource::Inline(vec![0; n_bytes].into()))
    }

    #[tokio::test]
    async fn a_request_holds_all_its_media_or_none() {
        let memory = MediaMemory::new(4096);
        let held = memory.hold(&[inline(1000), inline(2000)], FILE_BYTES_MAX, LONG).await.unwrap();
        assert_eq!(memory.units.available_permits(), 1);
        let refused = memory.hold(&[inline(5000)], FILE_BYTES_MAX, LONG).await.err().unwrap();
        assert_eq!(refused.kind, ErrorKind::TooLarge);
        let large = [inline(4096)];
        let soon = Duration::from_millis(1);
        let late = memory.hold(&large, FILE_BYTES_MAX, soon).await.err().unwrap();
        assert_eq!(late.kind, ErrorKind::Overloaded);
        let waiting = memory.hold(&large, FILE_BYTES_MAX, LONG);
        let (waited, ()) = tokio::join!(waiting, async { drop(held) });
        assert!(waited.is_ok());
    }

    #[tokio::test]
    async fn what_must_be_fetched_grows_and_shrinks() {
        let memory = MediaMemory::new(8 << 10);
        let url = || medium(MediumSource::Url("http://a.example/".to_owned()));
        let many: Vec<Medium> = (0..4).map(|_| url()).collect();
        let mut held = memory.hold(&many, FILE_BYTES_MAX, LONG).await.unwrap();
        assert_eq!(memory.units.available_permits(), 0, "a fair share for each");
        let mut first = held.remove(0);
        assert_eq!(first.grow(2 << 10), Ok(()));
        assert_eq!(first.grow(2049).unwrap_err().kind, ErrorKind::Overloaded);
        held.iter_mut().for_each(|other| other.shrink(1));
        assert_eq!(memory.units.available_permits(), 3);
        assert_eq!(first.grow(5 << 10), Ok(()));
        assert_eq!(memory.units.available_permits(), 0);
        drop((first, held));
        assert_eq!(memory.units.available_permits(), 8);
    }

    #[tokio::test]
    async fn one_that_needs_more_than_there_is_gets_all() {
        let memory = MediaMemory::new(4096);
        let all = memory.share(1 << 30, LONG).await.unwrap();
        assert_eq!(memory.units.available_permits(), 0);
        drop(all);
        assert_eq!(memory.units.available_permits(), 4);
    }
}
