//! From encoded bytes to a described medium (digest, grid, number of rows), and on to tower input.

use crate::media_bytes::fetch;
use crate::media_memory::MediaHold;
use crate::terms::Terms;
use crate::worker::Shared;
use bytes::Bytes;
use models::{MediaPlan, PreparedMedia};
use std::sync::Arc;
use tokio::time::timeout;
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
        digest: digest((shared.card_digest, shared.processor.digest_fields()), medium, &bytes),
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

/// Identity of the rows that a model with this card and processor makes of a medium: encoded bytes
/// and everything that changes what is made of them.
fn digest((card, processor): (Digest, Digest), medium: &Medium, bytes: &[u8]) -> Digest {
    let mut hasher = CanonicalHasher::new("triptych/media/1");
    hasher.number(medium.kind as u64).field(bytes);
    hasher.field(&card.0).field(&processor.0);
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
    pub(crate) async fn prepare(self, shared: &Shared, terms: &Terms) -> Result<PreparedMedia> {
        let broke_off = |_| Error::internal("preparing a medium broke off");
        let late = |_| Error::new(ErrorKind::Overloaded, "no turn to decode a picture came");
        let turn = timeout(terms.patience(), shared.decoders.acquire()).await.map_err(late)?;
        let _turn = turn.map_err(|_| Error::internal("shutting down"))?;
        let n_bytes = self.n_pixels * N_DECODING_BYTES_PER_PIXEL;
        let _working = shared.decoding.share(n_bytes, terms.patience()).await?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use wire::message::MediumSource;

    #[test]
    fn whatever_changes_the_rows_changes_the_digest() {
        let model = (Digest([1; 32]), Digest([2; 32]));
        let (other_card, other_processor) =
            ((Digest([3; 32]), model.1), (model.0, Digest([3; 32])));
        let medium = |kind, options: &str, uuid: Option<&str>| Medium {
            kind,
            source: MediumSource::Inline(Bytes::new()),
            uuid: uuid.map(Into::into),
            processor_options: options.into(),
            param: "messages[0].content[0]".into(),
        };
        let plain = medium(MediaKind::Image, "{}", None);
        let all = [
            digest(model, &plain, b"bytes"),
            digest(other_card, &plain, b"bytes"),
            digest(other_processor, &plain, b"bytes"),
            digest((model.1, model.0), &plain, b"bytes"),
            digest(model, &plain, b"bytez"),
            digest(model, &plain, b""),
            digest(model, &medium(MediaKind::Video, "{}", None), b"bytes"),
            digest(model, &medium(MediaKind::Image, "{\"fps\":2}", None), b"bytes"),
            digest(model, &medium(MediaKind::Image, "{}", Some("")), b"bytes"),
            digest(model, &medium(MediaKind::Image, "{}", Some("a")), b"bytes"),
            digest(model, &medium(MediaKind::Image, "", Some("{}")), b"bytes"),
            // The client's own identifier stands beside the bytes, never instead of them.
            digest(model, &medium(MediaKind::Image, "{}", Some("a")), b"bytez"),
        ];
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len(), "two of them are equal");
        // Where it was found says nothing about it.
        let source = MediumSource::Path("elsewhere".into());
        let elsewhere = Medium { source, param: "messages[7]".into(), ..plain };
        assert_eq!(digest(model, &elsewhere, b"bytes"), all[0]);
    }
}
