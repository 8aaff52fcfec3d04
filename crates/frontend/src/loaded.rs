//! What the frontend makes of a model's card: tokenizer, template, defaults; built once and shared.

use crate::offload::Offload;
use router::Backend;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use text::{ChatTemplate, GenerationDefaults, Tokenizer};
use tokio::sync::OnceCell;
use types::Result;
use types::card::ModelCard;
use types::content::Digest;
use types::media::MediaKind;

/// Models kept loaded; the one that was asked for longest ago leaves.
const LOADED_MAX: usize = 8;

/// A model as far as a frontend needs it.
pub(crate) struct LoadedModel {
    /// Of the card that it was made from.
    pub(crate) digest: Digest,
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) template: ChatTemplate,
    pub(crate) defaults: GenerationDefaults,
    /// Longest prompt and answer together, in tokens.
    pub(crate) max_seq_len: usize,
    /// So many bytes of text take at least one token.
    pub(crate) longest_token_bytes: usize,
    /// Media that its workers read.
    pub(crate) media_kinds: Vec<MediaKind>,
    /// Changes whenever anything in the card does.
    pub(crate) fingerprint: String,
}

impl LoadedModel {
    pub(crate) fn load(card: &ModelCard, digest: Digest) -> Result<Self> {
        let tokenizer = Arc::new(Tokenizer::from_card(card)?);
        Ok(Self {
            digest,
            longest_token_bytes: tokenizer.longest_token_bytes(),
            tokenizer,
            template: ChatTemplate::from_card(card)?,
            defaults: GenerationDefaults::from_card(card)?,
            max_seq_len: card.max_seq_len as usize,
            media_kinds: card.media.clone(),
            fingerprint: format!("fp_{:.10}", digest.to_string()),
        })
    }
}

/// The models that were asked for, loaded.
pub(crate) struct Models {
    backend: Arc<dyn Backend>,
    offload: Arc<Offload>,
    /// The one used last comes first.
    entries: Mutex<Vec<Entry>>,
}

#[derive(Clone)]
struct Entry {
    card: Arc<ModelCard>,
    digest: Digest,
    model: Arc<OnceCell<Arc<LoadedModel>>>,
}

impl Models {
    pub(crate) fn new(backend: Arc<dyn Backend>, offload: Arc<Offload>) -> Self {
        Self { backend, offload, entries: Mutex::default() }
    }

    /// The model served as `name`.
    ///
    /// Errors: the backend does not know it or has lost it; its card cannot be understood.
    pub(crate) async fn get(&self, name: &str) -> Result<Arc<LoadedModel>> {
        let card = self.backend.card(name).await?;
        let entry = match self.find(|entry| Arc::ptr_eq(&entry.card, &card)) {
            Some(entry) => entry,
            None => self.enter(card).await?,
        };
        let (card, digest) = (entry.card, entry.digest);
        let load = || self.offload.always(move || LoadedModel::load(&card, digest).map(Arc::new));
        entry.model.get_or_try_init(load).await.cloned()
    }

    /// Finds a card by what is in it, or adds it.
    async fn enter(&self, card: Arc<ModelCard>) -> Result<Entry> {
        let hashed = Arc::clone(&card);
        let digest = self.offload.always(move || Ok(hashed.digest())).await?;
        let mut entries = self.lock();
        let known = entries.iter().position(|entry| entry.digest == digest);
        let model = known.map_or_else(Arc::default, |idx| entries.remove(idx).model);
        entries.truncate(LOADED_MAX - 1);
        let entry = Entry { card, digest, model };
        entries.insert(0, entry.clone());
        Ok(entry)
    }

    fn find(&self, is_it: impl Fn(&Entry) -> bool) -> Option<Entry> {
        let mut entries = self.lock();
        let idx = entries.iter().position(is_it)?;
        entries[..=idx].rotate_right(1);
        Some(entries[0].clone())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
