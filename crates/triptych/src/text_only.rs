//! What `--modality text` makes of a model: one whose card has no place for media, so that every
//! frontend refuses them with words for the client.

use serde_json::{Map, Value};
use types::card::ModelCard;
use types::{Error, Result};

/// Beginnings and ends of the keys by which `config.json` names the tokens that stand for media.
const MEDIA: [&str; 3] = ["image", "video", "audio"];
const ENDS: [&str; 2] = ["token_id", "token_index"];

/// Takes the tokens that stand for media out of a card.
///
/// Workers with and without media then have different cards, and are never mixed for a request.
/// Errors: the card's `config.json` is no JSON object.
pub(crate) fn without_media(mut card: ModelCard) -> Result<ModelCard> {
    for (name, content) in &mut card.files {
        if name == "config.json" {
            let mut config: Map<String, Value> = serde_json::from_slice(content)
                .map_err(|error| Error::invalid(format!("config.json: {error}")))?;
            for medium in MEDIA {
                ENDS.iter().for_each(|end| drop(config.remove(&format!("{medium}_{end}"))));
            }
            *content = Value::Object(config).to_string().into_bytes();
        }
    }
    Ok(card)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_go_and_the_rest_stays() {
        let config = br#"{"vocab_size": 7, "image_token_id": 3, "audio_token_index": 4}"#;
        let files = vec![
            ("config.json".to_owned(), config.to_vec()),
            ("tokenizer.json".to_owned(), b"{}".to_vec()),
        ];
        let card = ModelCard { files, ..ModelCard::default() };
        let text_only = without_media(card.clone()).unwrap();
        assert_eq!(text_only.file("config.json").unwrap(), br#"{"vocab_size":7}"#);
        assert_eq!(text_only.file("tokenizer.json"), card.file("tokenizer.json"));
        assert_ne!(text_only.digest(), card.digest(), "another set of workers");
    }

    #[test]
    fn a_card_that_is_no_json_is_refused() {
        let files = vec![("config.json".to_owned(), b"[".to_vec())];
        let refused = without_media(ModelCard { files, ..ModelCard::default() });
        assert!(refused.unwrap_err().message.contains("config.json"));
    }
}
