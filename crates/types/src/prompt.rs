//! Expansion of a prompt: one placeholder token per medium becomes as many as the medium has rows.
//!
//! The one place where the number of placeholders is put into a prompt; planner, prefill and tests
//! all call it, so they cannot disagree.

use crate::media::{MediaItem, MediaKind};
use crate::{Error, Result, TokenId};

/// Which token stands for a medium in the rendered template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placeholder {
    /// The kind of medium it stands for.
    pub kind: MediaKind,
    /// The token that is repeated.
    pub token: TokenId,
}

/// A medium and the place of its rows in the expanded prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedItem {
    /// The medium.
    pub item: MediaItem,
    /// Index of its first row in the expanded prompt.
    pub start: usize,
}

impl PlacedItem {
    /// One past its last row.
    pub fn end(&self) -> usize {
        self.start + self.item.n_tokens as usize
    }
}

/// A prompt with every placeholder repeated, and where each medium lies in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExpandedPrompt {
    /// Token ids, placeholders repeated.
    pub tokens: Vec<TokenId>,
    /// The media in prompt order.
    pub items: Vec<PlacedItem>,
}

/// Repeats each placeholder of `tokens` as often as its medium has rows; media are taken in order.
///
/// Errors: the number or kind of placeholders differs from that of the media.
pub fn expand(
    tokens: &[TokenId],
    placeholders: &[Placeholder],
    items: &[MediaItem],
) -> Result<ExpandedPrompt> {
    let n_rows: usize = items.iter().map(|item| item.n_tokens as usize).sum();
    let mut expanded = ExpandedPrompt {
        tokens: Vec::with_capacity(tokens.len() + n_rows),
        items: Vec::with_capacity(items.len()),
    };
    let mut rest = items.iter();
    for &token in tokens {
        let Some(placeholder) = placeholders.iter().find(|found| found.token == token) else {
            expanded.tokens.push(token);
            continue;
        };
        let item = rest.next().filter(|item| item.kind == placeholder.kind).ok_or_else(mismatch)?;
        expanded.items.push(PlacedItem { item: item.clone(), start: expanded.tokens.len() });
        expanded.tokens.extend(std::iter::repeat_n(token, item.n_tokens as usize));
    }
    if rest.next().is_some() {
        return Err(mismatch());
    }
    Ok(expanded)
}

fn mismatch() -> Error {
    Error::invalid("the prompt's media placeholders do not match the media of the request")
        .at("messages")
}
