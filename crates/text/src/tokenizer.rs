//! Text to tokens and back, as tokenizer.json says.

use crate::card::unusable;
use crate::guard::{Guard, Part};
use crate::pieces::Pieces;
use crate::stream::Decoder;
use crate::words::Words;
use std::panic::catch_unwind;
use std::sync::OnceLock;
use types::card::ModelCard;
use types::{Error, Result, TokenId};

/// Most ids; vocabularies in use have a quarter of a million. Each takes room, used or not.
const N_IDS_MAX: usize = 4 << 20;

/// A model's tokenizer; shared, never changed.
pub struct Tokenizer {
    library: tokenizers::Tokenizer,
    /// A faster way to the same tokens, where this tokenizer's steps are known.
    words: Option<Words>,
    /// The library, taking special tokens for plain text; made when first needed.
    plain: OnceLock<tokenizers::Tokenizer>,
    pieces: Pieces,
    special: Vec<Special>,
    /// Tokens that the tokenizer itself puts before a text: that of its beginning, or none.
    prefix: Vec<TokenId>,
    /// For each id whether it is special.
    is_special: Vec<bool>,
    guard: Guard,
}

/// A special token.
struct Special {
    id: TokenId,
    /// Whether it takes the white space before or behind it.
    takes_before: bool,
    takes_behind: bool,
}

impl Tokenizer {
    /// Reads `tokenizer.json`.
    ///
    /// Errors: it is missing or broken, or decodes in a way that is not supported.
    pub fn from_card(card: &ModelCard) -> Result<Self> {
        let bytes = card.file("tokenizer.json").ok_or_else(broken)?;
        // Of some broken files the library says so by a panic.
        catch_unwind(|| Self::read(bytes)).unwrap_or_else(|_| Err(broken()))
    }

    fn read(bytes: &[u8]) -> Result<Self> {
        let mut library = tokenizers::Tokenizer::from_bytes(bytes).map_err(|_| broken())?;
        // A prompt is never cut or filled up behind the caller's back.
        library.with_truncation(None).map_err(|_| broken())?.with_padding(None);
        let decoder = serde_json::to_value(library.get_decoder()).map_err(|_| broken())?;
        let added = library.get_added_tokens_decoder();
        let n_ids = library.get_vocab(true).into_values().max().map_or(0, |last| last as usize + 1);
        if n_ids > N_IDS_MAX {
            return Err(unusable(format!("tokenizer.json has ids beyond {N_IDS_MAX}")));
        }
        let strings: Vec<_> = (0..n_ids as u32).map(|id| library.id_to_token(id)).collect();
        let mut is_special = vec![false; n_ids];
        let (mut special, mut texts) = (Vec::new(), Vec::new());
        for (&id, token) in added.iter().filter(|(_, token)| token.special) {
            // Of two tokens with one text the vocabulary has one.
            let Some(is_special) = is_special.get_mut(id as usize) else { continue };
            *is_special = true;
            special.push(Special { id, takes_before: token.lstrip, takes_behind: token.rstrip });
            texts.push(token.content.clone());
        }
        Ok(Self {
            pieces: Pieces::new(&decoder, &strings)?,
            prefix: prefix(&library).ok_or_else(broken)?,
            guard: Guard::new(&texts).ok_or_else(broken)?,
            plain: OnceLock::new(),
            words: Words::of(&library),
            library,
            special,
            is_special,
        })
    }

    /// Tokens of `text`, special tokens in it recognised, none added.
    pub fn encode(&self, text: &str) -> Result<Vec<TokenId>> {
        match &self.words {
            Some(words) => words.encode(self.library.get_model(), text, true).map_err(failed),
            None => encode(&self.library, text),
        }
    }

    /// Tokens of `text`, special tokens in it taken for plain text.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<TokenId>> {
        if let Some(words) = &self.words {
            return words.encode(self.library.get_model(), text, false).map_err(failed);
        }
        let plain = self.plain.get_or_init(|| {
            let mut plain = self.library.clone();
            plain.set_encode_special_tokens(true);
            plain
        });
        encode(plain, text)
    }

    /// The text of `tokens`, with or without special ones.
    pub fn decode(&self, tokens: &[TokenId], skips_special: bool) -> String {
        let mut decoder = Decoder::new(skips_special);
        let mut text: String = tokens.iter().map(|&token| decoder.push(self, token)).collect();
        text.push_str(&decoder.finish());
        text
    }

    /// The id of a token by its exact text, special or not.
    pub fn id(&self, token: &str) -> Option<TokenId> {
        self.library.token_to_id(token)
    }

    /// Number of ids: one more than the largest.
    pub fn n_tokens(&self) -> usize {
        self.pieces.len()
    }

    /// Bytes of the longest token: so many bytes of text take at least one.
    pub fn longest_token_bytes(&self) -> usize {
        self.pieces.longest()
    }

    /// The bytes that a token stands for, which need not be whole characters.
    pub fn token_bytes(&self, token: TokenId) -> &[u8] {
        self.pieces.get(token)
    }

    /// Whether a token is special: part of the prompt's form, not of its text.
    pub fn is_special(&self, token: TokenId) -> bool {
        self.is_special.get(token as usize).copied().unwrap_or(false)
    }

    /// The beginning of a text without the space that this tokenizer puts there.
    pub(crate) fn without_first_space<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        if self.pieces.drops_first_space {
            bytes.strip_prefix(b" ").unwrap_or(bytes)
        } else {
            bytes
        }
    }

    /// What keeps clients' strings apart from the template's.
    pub(crate) fn guard(&self) -> &Guard {
        &self.guard
    }

    /// Tokens of a prompt that was rendered from guarded strings, behind those that the tokenizer
    /// puts before a text, unless the template has put them there.
    pub(crate) fn encode_guarded(&self, rendered: &str) -> Result<Vec<TokenId>> {
        let tokens = match Guard::is_marked(rendered) {
            true => self.encode_marked(rendered)?,
            false => self.encode(rendered)?,
        };
        if tokens.starts_with(&self.prefix) {
            return Ok(tokens);
        }
        Ok([self.prefix.as_slice(), &tokens].concat())
    }

    fn encode_marked(&self, rendered: &str) -> Result<Vec<TokenId>> {
        let mut tokens = Vec::new();
        let mut takes_space = false;
        let parts = self.guard.parts(rendered);
        let mut parts = parts.iter().peekable();
        while let Some(part) = parts.next() {
            match part {
                Part::Special(idx) => tokens.push(self.special[*idx].id),
                Part::Plain(text) => {
                    let before =
                        parts.peek().is_some_and(|next| self.takes(next, |s| s.takes_before));
                    let text = if takes_space { text.trim_start() } else { text };
                    let text = if before { text.trim_end() } else { text };
                    tokens.extend(self.encode_plain(text)?);
                }
            }
            takes_space = self.takes(part, |special| special.takes_behind);
        }
        Ok(tokens)
    }

    fn takes(&self, part: &Part, side: impl Fn(&Special) -> bool) -> bool {
        matches!(part, Part::Special(idx) if side(&self.special[*idx]))
    }
}

fn broken() -> Error {
    unusable("the model's tokenizer.json is missing or cannot be read".into())
}

/// What the post-processor puts before a text.
fn prefix(library: &tokenizers::Tokenizer) -> Option<Vec<TokenId>> {
    const TEXT: &str = "a";
    let [with, without] = [true, false].map(|adds| library.encode_fast(TEXT, adds).ok());
    let (with, without) = (with?.get_ids().to_vec(), without?.get_ids().to_vec());
    let starts = |at: &usize| with[*at..].starts_with(&without);
    let at = (0..=with.len().saturating_sub(without.len())).find(starts).unwrap_or(0);
    Some(with[..at].to_vec())
}

fn encode(library: &tokenizers::Tokenizer, text: &str) -> Result<Vec<TokenId>> {
    let encoding = library.encode_fast(text, false).map_err(failed)?;
    Ok(encoding.get_ids().to_vec())
}

fn failed(_: tokenizers::Error) -> Error {
    Error::internal("the prompt could not be tokenised")
}
