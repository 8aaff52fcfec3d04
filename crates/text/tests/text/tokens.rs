//! The tokenizer, held against the goldens.

use crate::common::{golden_card, ids, json, list, text};
use std::sync::Arc;
use text::{TextStream, Tokenizer};

fn tokenizer() -> Arc<Tokenizer> {
    Arc::new(
        Tokenizer::from_card(&golden_card("checkpoint", &["tokenizer.json"])).expect("a tokenizer"),
    )
}

#[test]
fn text_encodes_as_in_the_reference() {
    let tokenizer = tokenizer();
    let index = json("tokenizer/index.json");
    for case in list(&index, "encode") {
        let given = text(case, "text");
        assert_eq!(tokenizer.encode(given), Ok(ids(case, "ids")), "{given:?}");
        let plain = ids(case, "ids_without_special");
        assert_eq!(tokenizer.encode_plain(given), Ok(plain), "{given:?}");
        assert_eq!(tokenizer.decode(&ids(case, "ids"), false), text(case, "decoded"));
        assert_eq!(tokenizer.decode(&ids(case, "ids"), true), text(case, "decoded_skip"));
    }
    for (special, id) in index["special"].as_object().expect("special tokens") {
        let id = id.as_u64().expect("an id") as u32;
        assert_eq!(tokenizer.id(special), Some(id));
        assert!(tokenizer.is_special(id));
        assert_eq!(tokenizer.token_bytes(id), special.as_bytes());
    }
    assert_eq!(tokenizer.n_tokens(), 360);
    assert_eq!(tokenizer.token_bytes(383), b"", "an id of the vocabulary's padding");
}

#[test]
fn text_comes_out_as_soon_as_it_is_certain() {
    let tokenizer = tokenizer();
    let index = json("tokenizer/index.json");
    for case in list(&index, "decode") {
        for (skips_special, whole, pieces) in
            [(false, "text", "pieces"), (true, "text_skip", "pieces_skip")]
        {
            let mut stream = TextStream::new(tokenizer.clone(), skips_special, Vec::new());
            let ids = ids(case, "ids");
            let mut sent: Vec<String> = ids.iter().map(|&id| stream.push(id).text).collect();
            let flushed = stream.finish().text;
            if let Some(last) = sent.last_mut() {
                last.push_str(&flushed);
            }
            let expected: Vec<_> =
                list(case, pieces).iter().map(|piece| piece.as_str().expect("text")).collect();
            assert_eq!(sent, expected, "{ids:?}");
            assert_eq!(tokenizer.decode(&ids, skips_special), text(case, whole));
        }
    }
}

#[test]
fn a_tokenizer_that_cannot_be_used_is_refused() {
    let check = |content: &str| {
        let card = crate::common::card(&[("tokenizer.json", content)]);
        assert!(Tokenizer::from_card(&card).is_err(), "{content}");
    };
    check("");
    check("[]");
    // Without a decoder, tokens are joined by spaces: nothing that can be streamed.
    let model = r#"{"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}"#;
    check(&format!(r#"{{"version": "1.0", "model": {model}}}"#));
    assert!(Tokenizer::from_card(&crate::common::card(&[])).is_err());
}
