//! From encoded bytes to a described medium (digest, grid, number of rows), and on to tower input.

use crate::media_bytes::fetch;
use crate::media_memory::MediaHold;
use crate::worker::Shared;
use bytes::Bytes;
use models::{MediaPlan, PreparedMedia};
use std::sync::Arc;
use tracing::debug_span;
use types::content::{CanonicalHasher, Digest};
use types::media::{MediaItem, MediaKind};
use types::{Error, ErrorKind, Result};
use wire::message::Medium;

/// What decoding and resizing take at most for a pixel; see `media::Limits`.
const N_DECODING_BYTES_PER_PIXEL: u64 = 16;

/// A medium whose bytes and header are there.
pub(crate) struct Described {
    pub(crate) item: MediaItem,
    plan: MediaPlan,
    bytes: Bytes,
    n_pixels: u64,
    options: String,
    param: String,
    /// Memory that the encoded bytes take.
    _held: MediaHold,
}

/// Fetches a medium and reads its header. Errors name the request field.
pub(crate) async fn describe(
    shared: &Shared,
    medium: &Medium,
    mut held: MediaHold,
) -> Result<Described> {
    if medium.kind != MediaKind::Image {
        let failure = Error::new(ErrorKind::UnsupportedMedia, "this model takes pictures only");
        return Err(failure.at(&medium.param));
    }
    let bytes = fetch(shared, medium, &mut held).await?;
    let described = describe_bytes(shared, medium, bytes, held);
    described.map_err(|failure| failure.at(&medium.param))
}

fn describe_bytes(
    shared: &Shared,
    medium: &Medium,
    bytes: Bytes,
    held: MediaHold,
) -> Result<Described> {
    let header = media::header(&bytes, &shared.media.limits)?;
    let plan = shared.processor.plan(medium.kind, header.size, &medium.processor_options)?;
    let item = MediaItem {
        kind: medium.kind,
        digest: digest(shared, medium, &bytes),
        grid: plan.grid,
        n_tokens: plan.n_tokens,
    };
    let (options, param) = (medium.processor_options.clone(), medium.param.clone());
    let n_pixels = header.size.n_pixels();
    Ok(Described { item, plan, bytes, n_pixels, options, param, _held: held })
}

/// Size of an item's rows in embedding memory, in bytes.
pub(crate) fn n_row_bytes(shared: &Shared, item: &MediaItem) -> usize {
    item.n_tokens as usize * shared.engine.n_row_bytes()
}

/// Identity of the rows: encoded bytes and everything that changes what is made of them.
fn digest(shared: &Shared, medium: &Medium, bytes: &[u8]) -> Digest {
    let mut hasher = CanonicalHasher::new("triptych/media/1");
    hasher.number(medium.kind as u64).field(bytes);
    hasher.field(&shared.card_digest.0).field(&shared.processor.digest_fields().0);
    hasher.field(medium.processor_options.as_bytes());
    hasher.number(u64::from(medium.uuid.is_some()));
    hasher.field(medium.uuid.as_deref().unwrap_or("").as_bytes());
    hasher.finish()
}

impl Described {
    /// Size of its rows in embedding memory, in bytes.
    pub(crate) fn n_row_bytes(&self, shared: &Shared) -> usize {
        n_row_bytes(shared, &self.item)
    }

    /// Decodes and resizes, beside the async threads. Errors name the request field.
    pub(crate) async fn prepare(self, shared: &Shared) -> Result<PreparedMedia> {
        let broke_off = |_| Error::internal("preparing a medium broke off");
        let _turn =
            shared.decoders.acquire().await.map_err(|_| Error::internal("shutting down"))?;
        let _working = shared.decoding.share(self.n_pixels * N_DECODING_BYTES_PER_PIXEL).await?;
        let (processor, limits) = (Arc::clone(&shared.processor), shared.media.limits);
        let span = debug_span!("encode.prepare");
        let param = self.param.clone();
        let prepare = move || {
            let _entered = span.entered();
            let image = media::decode(&self.bytes, &limits)?;
            processor.prepare(&image, &self.plan, &self.options)
        };
        let prepared = tokio::task::spawn_blocking(prepare).await.map_err(broke_off)?;
        prepared.map_err(|failure| failure.at(param))
    }
}
