//! Incremental text: nothing half, nothing lost, stop strings wherever tokens are cut.

use crate::common::{Random, card, golden_card};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Arc;
use text::{TextStream, Tokenizer};

/// Random sequences of each vocabulary.
const N_SEQUENCES: u64 = 3000;

#[test]
fn pieces_make_the_whole_text_of_a_byte_level_vocabulary() {
    let files = golden_card("checkpoint", &["tokenizer.json"]);
    let library = tokenizers::Tokenizer::from_bytes(&files.files[0].1).expect("a tokenizer");
    let tokenizer = Arc::new(Tokenizer::from_card(&files).expect("a tokenizer"));
    for seed in 0..N_SEQUENCES {
        let mut random = Random(seed);
        let ids: Vec<u32> = (0..random.below(40)).map(|_| random.below(384) as u32).collect();
        for skips_special in [false, true] {
            check_pieces(
                &tokenizer,
                &ids,
                skips_special,
                &library.decode(&ids, skips_special).expect("text"),
            );
        }
    }
}

#[test]
fn pieces_make_the_whole_text_of_a_byte_fallback_vocabulary() {
    let file = byte_fallback_vocabulary().to_string();
    let library = tokenizers::Tokenizer::from_bytes(&file).expect("a tokenizer");
    let tokenizer =
        Arc::new(Tokenizer::from_card(&card(&[("tokenizer.json", &file)])).expect("a tokenizer"));
    for seed in 0..N_SEQUENCES {
        let mut random = Random(seed);
        let ids: Vec<u32> =
            (0..random.below(30)).flat_map(|_| byte_fallback_tokens(&mut random)).collect();
        for skips_special in [false, true] {
            check_pieces(
                &tokenizer,
                &ids,
                skips_special,
                &library.decode(&ids, skips_special).expect("text"),
            );
        }
    }
}

#[test]
fn broken_bytes_of_a_byte_fallback_vocabulary_become_replacement_characters() {
    let file = byte_fallback_vocabulary().to_string();
    let tokenizer =
        Arc::new(Tokenizer::from_card(&card(&[("tokenizer.json", &file)])).expect("a tokenizer"));
    let byte = |byte: u8| u32::from(byte) + 2;
    assert_eq!(
        tokenizer.decode(&[byte(0xE6), byte(b'a'), byte(0xC3), byte(0xA9)], true),
        "\u{FFFD}aé"
    );
}

/// The stream's pieces are whole characters and make `whole`; the state stays small.
fn check_pieces(tokenizer: &Arc<Tokenizer>, ids: &[u32], skips_special: bool, whole: &str) {
    let mut stream = TextStream::new(tokenizer.clone(), skips_special, Vec::new());
    let mut bytes = 0;
    let mut text = String::new();
    for &id in ids {
        bytes += if skips_special && tokenizer.is_special(id) {
            0
        } else {
            tokenizer.token_bytes(id).len()
        };
        text.push_str(&stream.push(id).text);
        assert!(bytes <= text.len() + 4, "more than a character held back: {ids:?}");
    }
    text.push_str(&stream.finish().text);
    assert_eq!(text, whole, "{ids:?}");
}

#[test]
fn stop_strings_end_the_text_wherever_it_is_cut() {
    let check = |text: &str, stops: &[&str], expected: &str| {
        let letters = letters();
        let ids: Vec<u32> = text.bytes().map(|byte| u32::from(byte) - 32).collect();
        // One token a letter, and tokens of two letters from either parity.
        for ids in [ids.clone(), paired(&ids, 0), paired(&ids, 1)] {
            let stops: Vec<String> = stops.iter().map(|&stop| stop.to_owned()).collect();
            let mut stream = TextStream::new(letters.clone(), true, stops);
            let mut shown = String::new();
            let mut is_stopped = false;
            for &id in &ids {
                let delta = stream.push(id);
                assert!(delta.text.is_empty() || !is_stopped, "text after the stop");
                is_stopped |= delta.is_stopped;
                shown.push_str(&delta.text);
                assert!(
                    expected.starts_with(&shown),
                    "{shown:?} of {expected:?} was shown too soon"
                );
            }
            shown.push_str(&stream.finish().text);
            assert_eq!(shown, expected, "{text:?} {ids:?}");
            assert_eq!(is_stopped, expected != text, "{text:?}");
        }
    };
    check("hello world", &[], "hello world");
    check("hello world", &["xyz"], "hello world");
    check("hello world", &["o w"], "hell");
    check("hello world", &["world", "lo"], "hel");
    check("hello world", &["d"], "hello worl");
    check("hello world", &["hello"], "");
    check("aaab", &["aab"], "a");
    check("abababac", &["abac"], "abab");
    check("xab", &["abc"], "xab");
    // Complete first wins; of two complete at once, the longer.
    check("xabcd", &["abcd", "c"], "xab");
    check("xabcd", &["abcd", "d"], "x");
    check("a STOP b", &["STOP", ""], "a ");
}

#[test]
fn text_is_held_back_no_longer_than_a_stop_string_may_begin_there() {
    let letters = letters();
    let mut stream = TextStream::new(letters, true, vec!["abc".into()]);
    let shown = "xababx".bytes().map(|byte| stream.push(u32::from(byte) - 32).text);
    assert_eq!(shown.collect::<Vec<_>>(), ["x", "", "", "ab", "", "abx"]);
}

/// Tokens of two letters from index `first` on: pairs lie behind the 95 single letters.
fn paired(ids: &[u32], first: usize) -> Vec<u32> {
    let (head, tail) = ids.split_at(first.min(ids.len()));
    let pairs = tail.chunks(2).map(|pair| match pair {
        [a, b] => 95 + a * 95 + b,
        _ => pair[0],
    });
    head.iter().copied().chain(pairs).collect()
}

/// A vocabulary of the printable letters of ASCII and of all pairs of them.
fn letters() -> Arc<Tokenizer> {
    let letters = (32_u8..127).map(|byte| char::from(byte).to_string());
    let letters: Vec<_> =
        letters.map(|letter| if letter == " " { "Ġ".into() } else { letter }).collect();
    let pairs = letters.iter().flat_map(|a| letters.iter().map(move |b| format!("{a}{b}")));
    let vocabulary: serde_json::Map<_, _> = letters
        .iter()
        .cloned()
        .chain(pairs)
        .enumerate()
        .map(|(id, token)| (token, json!(id)))
        .collect();
    let file = json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "truncation": null, "padding": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
            "use_regex": true},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "a"},
    });
    Arc::new(
        Tokenizer::from_card(&card(&[("tokenizer.json", &file.to_string())])).expect("a tokenizer"),
    )
}

const WORDS: [&str; 8] = ["▁the", "▁", "cat", "▁▁", "é", "日", "▁Ünï", "."];

/// `<unk>`, `</s>`, 256 bytes, a few words.
fn byte_fallback_vocabulary() -> Value {
    let names = ["<unk>".to_owned(), "</s>".to_owned()].into_iter();
    let bytes = (0..256).map(|byte| format!("<0x{byte:02X}>"));
    let tokens: Vec<_> = names.chain(bytes).chain(WORDS.map(str::to_owned)).collect();
    assert_eq!(tokens.iter().collect::<HashSet<_>>().len(), tokens.len());
    let vocabulary: serde_json::Map<_, _> =
        tokens.into_iter().enumerate().map(|(id, token)| (token, json!(id))).collect();
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "pre_tokenizer": null, "post_processor": null,
        "added_tokens": [special(0, "<unk>"), special(1, "</s>")],
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [], "unk_token": "<unk>",
            "byte_fallback": true, "fuse_unk": true, "dropout": null, "ignore_merges": false,
            "continuing_subword_prefix": null, "end_of_word_suffix": null},
    })
}

/// A word, a special token, or the bytes of a character: never a broken one.
fn byte_fallback_tokens(random: &mut Random) -> Vec<u32> {
    match random.below(4) {
        0 => vec![random.below(2) as u32],
        1 => {
            let character = ['é', '日', '🙂', 'a', ' ', '\n'][random.below(6)];
            character.to_string().bytes().map(|byte| u32::from(byte) + 2).collect()
        }
        _ => vec![258 + random.below(WORDS.len()) as u32],
    }
}
