//! The way of a byte-level tokenizer from a text to ids, on plain strings.
//!
//! The library carries along, through every step, where each character came from; that costs it
//! several times what the steps themselves do. A prompt needs ids alone, so the steps before the
//! merging are taken here, and each word is then given to the library's model. Only tokenizers
//! made of exactly the steps known here go this way, and a test holds it against the library.

use crate::pieces::byte_level_letters;
use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::{Value, json};
use std::borrow::Cow;
use tokenizers::utils::SysRegex;
use tokenizers::{Model, NormalizedString};
use types::TokenId;

/// How the known patterns begin: those of Qwen2 and of Llama 3.
const KNOWN_BEGINNINGS: [&str; 2] = [
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*",
];

/// How they all end. The look ahead makes a regular expression an order of magnitude slower; what
/// it says is said in [`Words::end`].
const KNOWN_END: &str = r"|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The same without the look ahead.
const SIMPLE_END: &str = r"|\s*[\r\n]+|\s+";

/// In UTF-8 the first byte of U+0300, the first character that may combine with the one before;
/// text of lower ones is composed already.
const FIRST_BYTE_OF_COMBINING: u8 = 0xCC;

/// The steps before the merging.
pub(crate) struct Words {
    /// Finds added tokens as the library does: the leftmost, the longest.
    added: AhoCorasick,
    /// The id of each, and whether it is special.
    added_ids: Vec<(TokenId, bool)>,
    /// Whether text is brought to its composed form (NFC).
    composes: bool,
    pattern: SysRegex,
    /// The character that stands for each byte.
    letters: [char; 256],
}

impl Words {
    /// The steps of `library`; `None` where one of them is not known here.
    pub(crate) fn of(library: &tokenizers::Tokenizer) -> Option<Self> {
        let normalizer = serde_json::to_value(library.get_normalizer()).ok()?;
        let composes = normalizer == json!({"type": "NFC"});
        let added = library.get_added_tokens_decoder();
        let is_plain = |token: &tokenizers::AddedToken| {
            !(token.normalized || token.lstrip || token.rstrip || token.single_word)
        };
        if !(composes || normalizer.is_null()) || !added.values().all(is_plain) {
            return None;
        }
        let cutting = serde_json::to_value(library.get_pre_tokenizer()).ok()?;
        let texts = added.values().map(|token| token.content.as_str());
        let finder = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(texts);
        Some(Self {
            added: finder.ok()?,
            added_ids: added.iter().map(|(&id, token)| (id, token.special)).collect(),
            composes,
            pattern: SysRegex::new(&simple_pattern(&cutting)?).ok()?,
            letters: byte_level_letters(),
        })
    }

    /// The ids of `text`; special tokens in it are text like any other unless `takes_special`.
    pub(crate) fn encode(
        &self,
        model: &impl Model,
        text: &str,
        takes_special: bool,
    ) -> tokenizers::Result<Vec<TokenId>> {
        let mut ids = Vec::new();
        let mut start = 0;
        for found in self.added.find_iter(text) {
            let (id, is_special) = self.added_ids[found.pattern().as_usize()];
            if takes_special || !is_special {
                self.encode_words(model, &text[start..found.start()], &mut ids)?;
                ids.push(id);
                start = found.end();
            }
        }
        self.encode_words(model, &text[start..], &mut ids)?;
        Ok(ids)
    }

    fn encode_words(
        &self,
        model: &impl Model,
        text: &str,
        ids: &mut Vec<TokenId>,
    ) -> tokenizers::Result<()> {
        let text = self.composed(text);
        let mut rest = text.as_ref();
        let mut letters = String::new();
        while !rest.is_empty() {
            let (word, behind) = rest.split_at(self.end(rest));
            letters.clear();
            letters.extend(word.bytes().map(|byte| self.letters[usize::from(byte)]));
            ids.extend(model.tokenize(&letters)?.into_iter().map(|token| token.id));
            rest = behind;
        }
        Ok(())
    }

    /// Where the first word of `text` ends.
    fn end(&self, text: &str) -> usize {
        let (start, end) = match self.pattern.find_iter(text).next() {
            Some((0, end)) => (0, end),
            // What no alternative takes is a word of its own; these patterns leave nothing.
            Some((start, _)) => return start,
            None => return text.len(),
        };
        let is_last = end == text.len();
        // Only white space ends with white space that ends no line. Its last character belongs to
        // the word behind, if there is one, and if it is not alone.
        let last = text[start..end].char_indices().next_back();
        match last.filter(|(_, last)| last.is_whitespace() && !matches!(last, '\r' | '\n')) {
            Some((at, _)) if at > 0 && !is_last => at,
            _ => end,
        }
    }

    fn composed<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if !self.composes || text.bytes().all(|byte| byte < FIRST_BYTE_OF_COMBINING) {
            return Cow::Borrowed(text);
        }
        let mut composed = NormalizedString::from(text);
        composed.nfc();
        Cow::Owned(composed.get().to_owned())
    }
}

/// The pattern by which words are cut, without its look ahead; `None` unless this is all that is
/// done to them, beside writing bytes as letters.
fn simple_pattern(cutting: &Value) -> Option<String> {
    let [split, bytes] = cutting["pretokenizers"].as_array()?.as_slice() else { return None };
    let cuts =
        split["type"] == "Split" && split["behavior"] == "Isolated" && split["invert"] == false;
    let writes_bytes = bytes["type"] == "ByteLevel"
        && bytes["add_prefix_space"] == false
        && bytes["use_regex"] == false;
    let beginning = split["pattern"]["Regex"].as_str()?.strip_suffix(KNOWN_END)?;
    let is_known = cuts && writes_bytes && KNOWN_BEGINNINGS.contains(&beginning);
    is_known.then(|| format!("{beginning}{SIMPLE_END}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that patterns, normalisers and added tokens may stumble over.
    const BITS: &[&str] = &[
        "a",
        "Story",
        " small",
        "'s",
        "'LL",
        "'x",
        "é",
        "e\u{301}",
        "\u{301}",
        "ſ",
        "ﬁ",
        "汉字",
        "が",
        "か\u{3099}",
        "\u{1112}\u{1161}\u{11ab}",
        "한",
        "नमस्ते",
        "Ⅷ",
        "²",
        "٣",
        "7",
        "1234567",
        " ",
        "  ",
        "   ",
        "\t",
        "\n",
        "\r\n",
        "\u{a0}",
        "\u{85}",
        "\u{3000}",
        "\u{2028}",
        ".",
        "...",
        " !",
        "?\n",
        "-",
        "_",
        "🙂",
        "👩\u{200d}💻",
        "\u{0}",
        "\u{fdd0}",
        "<|im_start|>",
        "<|im_end|>",
        "<|im_",
        "|>",
        "<|image_pad|>",
        "<|endoftext|>",
    ];

    const N_TEXTS: u64 = 5_000;

    fn library(folder: &str, pattern: &str) -> tokenizers::Tokenizer {
        let path = format!("{}/../../{folder}/tokenizer.json", env!("CARGO_MANIFEST_DIR"));
        let mut json: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = pattern.into();
        // One that is no special token.
        json["added_tokens"][1]["special"] = false.into();
        tokenizers::Tokenizer::from_bytes(json.to_string()).unwrap()
    }

    fn draw(state: &mut u64, below: usize) -> usize {
        *state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) as usize % below
    }

    #[test]
    fn words_are_those_of_the_library() {
        for beginning in KNOWN_BEGINNINGS {
            for folder in ["models/shapes", "tests/goldens/qwen2_vl/checkpoint"] {
                let mut library = library(folder, &format!("{beginning}{KNOWN_END}"));
                let words = Words::of(&library).expect("a known kind");
                for takes_special in [true, false] {
                    library.set_encode_special_tokens(!takes_special);
                    check(&library, &words, takes_special);
                }
            }
        }
    }

    fn check(library: &tokenizers::Tokenizer, words: &Words, takes_special: bool) {
        let mut state = 1;
        for _ in 0..N_TEXTS {
            let n_bits = 1 + draw(&mut state, 12);
            let text: String = (0..n_bits).map(|_| BITS[draw(&mut state, BITS.len())]).collect();
            let expected = library.encode_fast(text.as_str(), false).unwrap();
            let found = words.encode(library.get_model(), &text, takes_special).unwrap();
            assert_eq!(found, expected.get_ids(), "{text:?}");
        }
    }

    #[test]
    fn what_is_not_known_goes_the_librarys_way() {
        let known = format!("{}{KNOWN_END}", KNOWN_BEGINNINGS[0]);
        let usual = || library("models/shapes", &known);
        assert!(Words::of(&usual()).is_some());
        assert!(Words::of(&library("models/shapes", r"\w+|\s+(?!\S)|\s+")).is_none());
        let mut other = usual();
        other.with_normalizer(Some(tokenizers::normalizers::unicode::NFKC));
        assert!(Words::of(&other).is_none());
        let mut other = usual();
        other.add_tokens(&[tokenizers::AddedToken::from("wide", false).lstrip(true)]);
        assert!(Words::of(&other).is_none());
    }
}
