//! The bytes that each token stands for.
//!
//! Decoders of the kinds known here give every token its bytes, whatever stands beside it; the text
//! is the bytes joined and read as UTF-8. So an answer can be decoded token by token.

use crate::card::unusable;
use serde_json::Value;
use std::collections::HashMap;
use types::{Result, TokenId};

/// The bytes of every token of a vocabulary.
pub(crate) struct Pieces {
    /// All tokens' bytes, one after the other.
    bytes: Vec<u8>,
    /// For each token where its bytes end.
    ends: Vec<u32>,
    /// Whether a space at the very beginning of a text is dropped.
    pub(crate) drops_first_space: bool,
}

/// How a token's string is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Each character stands for a byte.
    ByteLevel,
    /// `▁` is a space; `<0x0A>` is a byte.
    Metaspace,
}

/// What stands for a space in vocabularies of that kind.
const SPACE: char = '▁';

impl Pieces {
    /// The bytes of the tokens `strings` (by id; `None` where an id is not used), as the `decoder`
    /// of tokenizer.json reads them.
    ///
    /// Errors: a decoder of a kind that is not known here.
    pub(crate) fn new(decoder: &Value, strings: &[Option<String>]) -> Result<Self> {
        let (kind, drops_first_space) = kind(decoder).ok_or_else(|| {
            unusable(format!(
                "the tokenizer's decoder is of a kind that is not supported: {decoder}"
            ))
        })?;
        let letters = byte_level_letters();
        let byte_of: HashMap<char, u8> = letters.into_iter().zip(0..=u8::MAX).collect();
        let mut pieces =
            Self { bytes: Vec::new(), ends: Vec::with_capacity(strings.len()), drops_first_space };
        for string in strings {
            let string = string.as_deref().unwrap_or("");
            match kind {
                Kind::ByteLevel => pieces.push_byte_level(string, &byte_of),
                Kind::Metaspace => pieces.push_metaspace(string),
            }
            pieces.ends.push(pieces.bytes.len() as u32);
        }
        Ok(pieces)
    }

    /// The bytes of `token`; none of an id beyond the vocabulary.
    pub(crate) fn get(&self, token: TokenId) -> &[u8] {
        let idx = token as usize;
        let Some(&end) = self.ends.get(idx) else { return &[] };
        let start = if idx == 0 { 0 } else { self.ends[idx - 1] };
        &self.bytes[start as usize..end as usize]
    }

    /// Bytes of the longest token.
    pub(crate) fn longest(&self) -> usize {
        (0..self.len() as TokenId).map(|token| self.get(token).len()).max().unwrap_or(0)
    }

    /// Number of ids.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// A token with a character that stands for no byte is taken as it is written.
    fn push_byte_level(&mut self, string: &str, byte_of: &HashMap<char, u8>) {
        let start = self.bytes.len();
        for character in string.chars() {
            let Some(&byte) = byte_of.get(&character) else {
                self.bytes.truncate(start);
                self.bytes.extend_from_slice(string.as_bytes());
                return;
            };
            self.bytes.push(byte);
        }
    }

    fn push_metaspace(&mut self, string: &str) {
        match byte_token(string) {
            Some(byte) => self.bytes.push(byte),
            None => self.bytes.extend_from_slice(string.replace(SPACE, " ").as_bytes()),
        }
    }
}

/// The kind of a decoder, and whether it drops a space at the beginning.
fn kind(decoder: &Value) -> Option<(Kind, bool)> {
    match decoder["type"].as_str()? {
        "ByteLevel" => Some((Kind::ByteLevel, false)),
        "Metaspace" => Some((Kind::Metaspace, decoder["prepend_scheme"] != "never")),
        "Sequence" => {
            let steps = decoder["decoders"].as_array()?;
            match steps.as_slice() {
                [only] => kind(only),
                [replace, rest @ ..] if is_space_replacement(replace) => {
                    let names: Option<Vec<_>> =
                        rest.iter().map(|step| step["type"].as_str()).collect();
                    match names?.as_slice() {
                        ["ByteFallback", "Fuse"] => Some((Kind::Metaspace, false)),
                        ["ByteFallback", "Fuse", "Strip"] => {
                            Some((Kind::Metaspace, strips_one_space(rest.last()?)?))
                        }
                        _ => None,
                    }
                }
                _ => None,
            }
        }
        _ => None,
    }
}

fn is_space_replacement(step: &Value) -> bool {
    step["type"] == "Replace" && step["pattern"]["String"] == "▁" && step["content"] == " "
}

fn strips_one_space(step: &Value) -> Option<bool> {
    let is_space = step["content"] == " " && step["stop"] == 0;
    match step["start"].as_u64()? {
        0 if is_space => Some(false),
        1 if is_space => Some(true),
        _ => None,
    }
}

/// The byte that a token like `<0x0A>` stands for.
fn byte_token(string: &str) -> Option<u8> {
    let digits = string.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// The character that stands for each byte: printable ones of Latin-1 for themselves, for the
/// others, in order, what comes from U+0100 on.
pub(crate) fn byte_level_letters() -> [char; 256] {
    let is_itself = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut others = '\u{100}'..;
    std::array::from_fn(|byte| {
        let byte = byte as u8;
        if is_itself(byte) { char::from(byte) } else { others.next().unwrap_or_default() }
    })
}
