//! How many bytes of encoded media a worker holds at once: those of a request are taken together,
//! first come, first served, so that no two requests wait for each other.

use crate::worker::ROWS_DEADLINE;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use types::{Error, ErrorKind, Result};
use wire::message::{Medium, MediumSource};

/// Bytes that one permit of the semaphore stands for.
const N_UNIT_BYTES: u64 = 1024;

/// The memory for encoded media.
pub(crate) struct MediaMemory {
    units: Arc<Semaphore>,
    n_units: u32,
}

/// Memory held for the media of a request, until the last of them is dropped.
pub(crate) type MediaHold = Arc<OwnedSemaphorePermit>;

impl MediaMemory {
    pub(crate) fn new(n_bytes_max: u64) -> Self {
        let n_units = u32::try_from(n_bytes_max / N_UNIT_BYTES).unwrap_or(u32::MAX).max(1);
        // A semaphore's own limit is below 2^61 on 64-bit machines.
        Self { units: Arc::new(Semaphore::new(n_units as usize)), n_units }
    }

    /// Takes memory for all of `media`, waiting for its turn.
    ///
    /// Errors: more than there is (`TooLarge`), or none became free (`Overloaded`).
    pub(crate) async fn hold(&self, media: &[Medium], file_bytes_max: u64) -> Result<MediaHold> {
        let n_bytes: u64 = media.iter().map(|medium| n_bytes(medium, file_bytes_max)).sum();
        let n_units = u32::try_from(n_bytes.div_ceil(N_UNIT_BYTES)).unwrap_or(u32::MAX);
        if n_units > self.n_units {
            let message = "the media of this request are more than this server holds at once";
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        let turn = Arc::clone(&self.units).acquire_many_owned(n_units);
        let full = || Error::new(ErrorKind::Overloaded, "no memory for media became free");
        let held = timeout(ROWS_DEADLINE, turn).await.map_err(|_| full())?;
        held.map(Arc::new).map_err(|_| full())
    }
}

/// The size of a medium, or the most it can be.
fn n_bytes(medium: &Medium, file_bytes_max: u64) -> u64 {
    match &medium.source {
        MediumSource::Inline(bytes) => bytes.len() as u64,
        MediumSource::Lent { n_bytes, .. } => *n_bytes as u64,
        MediumSource::Path(path) => {
            // A file that is out of reach is refused later, in the words for that.
            std::fs::metadata(path).map_or(0, |file| file.len().min(file_bytes_max))
        }
        MediumSource::Url(_) => file_bytes_max,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::media::MediaKind;

    fn medium(n_bytes: usize) -> Medium {
        Medium {
            kind: MediaKind::Image,
            source: MediumSource::Inline(vec![0; n_bytes].into()),
            uuid: None,
            processor_options: String::new(),
            param: String::new(),
        }
    }

    #[tokio::test]
    async fn a_request_holds_all_its_media_or_none() {
        let memory = MediaMemory::new(4096);
        let held = memory.hold(&[medium(1000), medium(2000)], 1 << 20).await.unwrap();
        assert_eq!(memory.units.available_permits(), 1);
        let refused = memory.hold(&[medium(5000)], 1 << 20).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::TooLarge);
        let large = [medium(4096)];
        let waiting = memory.hold(&large, 1 << 20);
        let (waited, ()) = tokio::join!(waiting, async { drop(held) });
        assert!(waited.is_ok());
    }
}
