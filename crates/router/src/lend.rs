//! Media on their way to an encoder: small ones in the message, large ones lent from our memory.

use bytes::Bytes;
use planes::{
    Address, LeaseTable, LeasedMemory, Reaper, Region, RemoteHandle, Transport, Withdraw,
};
use std::sync::Arc;
use std::time::{Duration, Instant};
use types::media::{MediaRef, MediaSource};
use types::{LeaseId, Result, Secret};
use wire::message::{Medium, MediumSource};

/// Media up to this many bytes travel inside the message.
const N_INLINE_BYTES_MAX: usize = 64 * 1024;

/// All inline media of one request together stay under this, so that the message does too.
const N_INLINE_BYTES_TOTAL_MAX: usize = 256 * 1024;

/// Lends encoded media to whoever encodes them.
pub(crate) struct Lender {
    table: Arc<LeaseTable>,
    transports: Vec<String>,
    _served: Withdraw,
    _reaper: Reaper,
}

/// The media of one request, lent until this is dropped.
pub(crate) struct LentMedia {
    pub(crate) media: Vec<Medium>,
    table: Arc<LeaseTable>,
    leases: Vec<(LeaseId, Secret)>,
}

impl Drop for LentMedia {
    fn drop(&mut self) {
        for &(lease, secret) in &self.leases {
            self.table.release(lease, secret);
        }
    }
}

impl Lender {
    pub(crate) async fn start(transport: &dyn Transport) -> Result<Self> {
        let table = Arc::new(LeaseTable::default());
        let (transports, served) = transport.serve(Arc::clone(&table)).await?;
        let reaper = Reaper::start(&table);
        Ok(Self { table, transports, _served: served, _reaper: reaper })
    }

    /// Prepares the media of a request for the message. Errors: too many leases.
    pub(crate) fn lend(&self, media: &[MediaRef], time: Duration) -> Result<LentMedia> {
        let table = Arc::clone(&self.table);
        let mut lent = LentMedia { media: Vec::new(), table, leases: Vec::new() };
        let mut n_inline_bytes = 0;
        for medium in media {
            let source = match &medium.source {
                MediaSource::Path(path) => MediumSource::Path(path.clone()),
                MediaSource::Url(url) => MediumSource::Url(url.clone()),
                MediaSource::Bytes(bytes) if fits(bytes.len(), &mut n_inline_bytes) => {
                    MediumSource::Inline(Bytes::copy_from_slice(bytes))
                }
                MediaSource::Bytes(bytes) => self.lend_bytes(bytes, time, &mut lent.leases)?,
            };
            lent.media.push(Medium {
                kind: medium.kind,
                source,
                uuid: medium.uuid.clone(),
                processor_options: medium.processor_options.clone(),
                param: medium.param.clone(),
            });
        }
        Ok(lent)
    }

    fn lend_bytes(
        &self,
        bytes: &Arc<[u8]>,
        time: Duration,
        leases: &mut Vec<(LeaseId, Secret)>,
    ) -> Result<MediumSource> {
        let keep = Arc::clone(bytes);
        // SAFETY: the bytes live as long as `keep`, which is handed over with them, and leased
        // memory is only ever read.
        let region = unsafe { Region::new(keep.as_ptr().cast_mut(), keep.len()) };
        let memory = LeasedMemory { regions: vec![region], keep: Box::new(keep) };
        let (lease, secret) = self.table.grant(memory, Instant::now() + time)?;
        leases.push((lease, secret));
        let handle = RemoteHandle {
            owner: Address(String::new()),
            transports: self.transports.clone(),
            lease,
            secret,
        };
        Ok(MediumSource::Lent { handle, n_bytes: bytes.len() })
    }
}

fn fits(n_bytes: usize, n_inline_bytes: &mut usize) -> bool {
    let is_small = n_bytes <= N_INLINE_BYTES_MAX;
    let fits = is_small && *n_inline_bytes + n_bytes <= N_INLINE_BYTES_TOTAL_MAX;
    if fits {
        *n_inline_bytes += n_bytes;
    }
    fits
}
