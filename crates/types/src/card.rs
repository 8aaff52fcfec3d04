//! The model card: all that a frontend must know of a model, and the identity of a set of workers.

use crate::content::{CanonicalHasher, Digest};
use crate::media::MediaKind;

/// The files of a model folder that are not weights, by name, and what the worker adds.
///
/// Instances with the same digest form a set; the frontend has no model folder, it fetches the
/// card.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModelCard {
    /// File name and content, sorted by name (`config.json`, `tokenizer.json`, …).
    pub files: Vec<(String, Vec<u8>)>,
    /// Identity of the weights: names, shapes, types and sizes of all tensors, hashed.
    pub weights: Digest,
    /// Longest context that the workers serve, in tokens.
    pub max_seq_len: u32,
    /// A template given on the command line instead of the folder's.
    pub template_override: Option<String>,
    /// The kinds of media that the workers read; of all others a request is refused.
    pub media: Vec<MediaKind>,
}

impl ModelCard {
    /// The content of the file called `name`.
    pub fn file(&self, name: &str) -> Option<&[u8]> {
        let found = self.files.iter().find(|(file, _)| file == name)?;
        Some(&found.1)
    }

    /// Identity of everything in the card.
    pub fn digest(&self) -> Digest {
        let mut hasher = CanonicalHasher::new("triptych/card/2");
        hasher.number(self.files.len() as u64);
        for (name, content) in &self.files {
            hasher.field(name.as_bytes()).field(content);
        }
        hasher.field(&self.weights.0).number(u64::from(self.max_seq_len));
        let template = self.template_override.as_deref();
        hasher.number(u64::from(template.is_some())).field(template.unwrap_or("").as_bytes());
        hasher.number(self.media.len() as u64);
        for kind in &self.media {
            hasher.field(kind.name().as_bytes());
        }
        hasher.finish()
    }
}
