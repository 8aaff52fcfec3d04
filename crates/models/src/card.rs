//! The model card: the folder's files that a frontend needs, and the identity of the weights.

use crate::LoadFormat;
use crate::dummy::byte_tokenizer;
use crate::files::{ConfigFiles, read};
use crate::model::ModelSpec;
use crate::safetensors::weights_digest;
use crate::zoo::{Family, SpecialToken};
use serde_json::json;
use std::path::Path;
use types::card::ModelCard;
use types::content::CanonicalHasher;
use types::{Error, ErrorKind, Result};

/// Files that travel, where the folder has them; sorted.
const CARD_FILES: [&str; 9] = [
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// Reads the card of `folder`.
///
/// Errors: a file cannot be read; there is no tokenizer (unless the weights are dummies).
pub(crate) fn read_card(
    folder: &Path,
    load_format: LoadFormat,
    (family, files): (&Family, &ConfigFiles),
    spec: &ModelSpec,
) -> Result<ModelCard> {
    let mut card = ModelCard { max_seq_len: spec.max_seq_len as u32, ..ModelCard::default() };
    for name in CARD_FILES {
        let path = folder.join(name);
        if path.exists() {
            card.files.push((name.to_owned(), read(&path)?));
        }
    }
    match load_format {
        LoadFormat::Auto => card.weights = weights_digest(folder)?,
        LoadFormat::Dummy => {
            card.weights = CanonicalHasher::new("triptych/weights/dummy").finish();
            add_stand_ins(&mut card, family, (files, spec))?;
        }
    }
    if card.file("tokenizer.json").is_none() {
        let message = format!("{} has no tokenizer.json", folder.display());
        return Err(Error::new(ErrorKind::NotFound, message));
    }
    Ok(card)
}

/// Puts stand-ins where a dummy model's folder lacks tokenizer or template.
fn add_stand_ins(
    card: &mut ModelCard,
    family: &Family,
    (files, spec): (&ConfigFiles, &ModelSpec),
) -> Result<()> {
    if card.file("tokenizer.json").is_none() {
        let special = (family.stand_ins.special_tokens)(files)?;
        // Tokens the vocabulary has no room for cannot be asked for either.
        let special: Vec<SpecialToken> =
            special.into_iter().filter(|(id, _)| (*id as usize) < spec.vocab_size).collect();
        tracing::warn!("there is no tokenizer.json: every byte is a token");
        let tokenizer = byte_tokenizer(spec.vocab_size, &special);
        card.files.push(("tokenizer.json".to_owned(), tokenizer.to_string().into_bytes()));
    }
    let template_in_config = card
        .file("tokenizer_config.json")
        .is_some_and(|bytes| String::from_utf8_lossy(bytes).contains("\"chat_template\""));
    let has_template = template_in_config
        || card.file("chat_template.jinja").or(card.file("chat_template.json")).is_some();
    if !has_template {
        tracing::warn!("there is no chat template: using one for {}", family.architecture);
        let template = json!({ "chat_template": family.stand_ins.chat_template });
        card.files.push(("chat_template.json".to_owned(), template.to_string().into_bytes()));
    }
    card.files.sort();
    Ok(())
}
