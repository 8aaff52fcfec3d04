//! An answer's text, token by token.

use crate::Tokenizer;
use crate::stop::{Shown, StopStrings};
use std::sync::Arc;
use types::TokenId;

/// Text that became certain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TextDelta {
    /// What is to be added to the answer; may be empty.
    pub text: String,
    /// Whether a stop string came; it and all after it are not part of the answer.
    pub is_stopped: bool,
}

/// Turns tokens into text as they come: whole characters only, nothing lost, stop strings found
/// across tokens. The joined text is that of [`Tokenizer::decode`] up to the stop string.
///
/// Its state is at most three bytes and the length of the longest stop string.
pub struct TextStream {
    tokenizer: Arc<Tokenizer>,
    decoder: Decoder,
    stops: StopStrings,
    is_stopped: bool,
    n_bytes_decoded: usize,
}

impl TextStream {
    /// A stream that leaves out special tokens if `skips_special`, and ends at any of `stops`.
    pub fn new(tokenizer: Arc<Tokenizer>, skips_special: bool, stops: Vec<String>) -> Self {
        Self {
            tokenizer,
            decoder: Decoder::new(skips_special),
            stops: StopStrings::new(stops),
            is_stopped: false,
            n_bytes_decoded: 0,
        }
    }

    /// Bytes of the characters that are whole so far, given already or held back. The text of the
    /// next token begins with the character that begins here, or inside it.
    pub fn n_bytes_decoded(&self) -> usize {
        self.n_bytes_decoded
    }

    /// Takes the next token. After a stop string it gives nothing more.
    pub fn push(&mut self, token: TokenId) -> TextDelta {
        if self.is_stopped {
            return TextDelta { text: String::new(), is_stopped: true };
        }
        let text = self.decoder.push(&self.tokenizer, token);
        self.n_bytes_decoded += text.len();
        self.show(text)
    }

    /// Gives what was held back: an unfinished character, the beginning of a stop string.
    pub fn finish(&mut self) -> TextDelta {
        if self.is_stopped {
            return TextDelta { text: String::new(), is_stopped: true };
        }
        let text = self.decoder.finish();
        let mut delta = self.show(text);
        if !delta.is_stopped {
            delta.text.push_str(&self.stops.finish());
        }
        delta
    }

    fn show(&mut self, text: String) -> TextDelta {
        match self.stops.push(text) {
            Shown::Text(text) => TextDelta { text, is_stopped: false },
            Shown::Last(text) => {
                self.is_stopped = true;
                TextDelta { text, is_stopped: true }
            }
        }
    }
}

/// Tokens to text: whole characters, without stop strings.
pub(crate) struct Decoder {
    skips_special: bool,
    utf8: Utf8Stream,
    /// Whether anything was decoded yet.
    has_begun: bool,
}

impl Decoder {
    /// A decoder that leaves out special tokens if `skips_special`.
    pub(crate) fn new(skips_special: bool) -> Self {
        Self { skips_special, utf8: Utf8Stream::default(), has_begun: false }
    }

    /// The characters that `token` completes.
    pub(crate) fn push(&mut self, tokenizer: &Tokenizer, token: TokenId) -> String {
        let mut bytes = tokenizer.token_bytes(token);
        if self.skips_special && tokenizer.is_special(token) {
            bytes = &[];
        }
        if !self.has_begun && !bytes.is_empty() {
            self.has_begun = true;
            bytes = tokenizer.without_first_space(bytes);
        }
        self.utf8.push(bytes)
    }

    /// What is left: an unfinished character, as U+FFFD.
    pub(crate) fn finish(&mut self) -> String {
        self.utf8.finish()
    }
}

/// Bytes to text, in any pieces; what is no UTF-8 becomes U+FFFD as in `String::from_utf8_lossy`.
#[derive(Default)]
struct Utf8Stream {
    /// The beginning of a character, at most three bytes.
    unfinished: Vec<u8>,
}

impl Utf8Stream {
    fn push(&mut self, bytes: &[u8]) -> String {
        // Most tokens are whole characters behind whole characters.
        if self.unfinished.is_empty()
            && let Ok(text) = std::str::from_utf8(bytes)
        {
            return text.to_owned();
        }
        self.unfinished.extend_from_slice(bytes);
        let certain = self.unfinished.len() - n_unfinished(&self.unfinished);
        let rest = self.unfinished.split_off(certain);
        let text = String::from_utf8_lossy(&self.unfinished).into_owned();
        self.unfinished = rest;
        text
    }

    fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.unfinished)).into_owned()
    }
}

/// Bytes at the end that may become a character once more bytes come.
fn n_unfinished(bytes: &[u8]) -> usize {
    let last_chunk = bytes.utf8_chunks().last();
    let invalid = last_chunk.map_or(&[][..], |chunk| chunk.invalid());
    // An end is unfinished, not wrong, if the error has no length.
    let is_unfinished =
        std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
    if is_unfinished { invalid.len() } else { 0 }
}
