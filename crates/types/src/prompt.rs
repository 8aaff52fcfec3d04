//! Expansion of a prompt: one placeholder token per medium becomes as many as the medium has rows.
//!
//! The one place where the number of placeholders is put into a prompt; planner, prefill and tests
//! all call it, so they cannot disagree.

use crate::media::{MediaItem, MediaKind};
use crate::{Error, ErrorKind, Result, TokenId};

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
/// Errors: the number or kind of placeholders differs from that of the media; the prompt would be
/// longer than `n_tokens_max` (`ContextLengthExceeded`), for which no memory is taken: how many
/// rows a medium has is what a peer says.
pub fn expand(
    tokens: &[TokenId],
    placeholders: &[Placeholder],
    items: &[MediaItem],
    n_tokens_max: usize,
) -> Result<ExpandedPrompt> {
    let n_tokens = n_expanded(tokens.len(), items);
    if n_tokens > n_tokens_max {
        let message =
            format!("the prompt has {n_tokens} tokens; this server's memory holds {n_tokens_max}");
        return Err(Error::new(ErrorKind::ContextLengthExceeded, message));
    }
    let mut expanded = ExpandedPrompt {
        tokens: Vec::with_capacity(n_tokens),
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

/// Tokens of a prompt of `n_tokens`, the placeholder of each of the media among them, when every
/// placeholder is repeated. More than can be counted is the most that can be.
pub fn n_expanded(n_tokens: usize, items: &[MediaItem]) -> usize {
    let n_more = items.iter().map(|item| item.n_tokens.saturating_sub(1) as usize);
    n_more.fold(n_tokens, usize::saturating_add)
}

fn mismatch() -> Error {
    Error::invalid("the prompt's media placeholders do not match the media of the request")
        .at("messages")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Digest;
    use crate::media::Grid;

    const PICTURE: Placeholder = Placeholder { kind: MediaKind::Image, token: 9 };

    fn picture(n_tokens: u32) -> MediaItem {
        MediaItem {
            kind: MediaKind::Image,
            digest: Digest([7; 32]),
            grid: Grid::default(),
            n_tokens,
        }
    }

    #[test]
    fn a_placeholder_becomes_as_many_as_its_medium_has_rows() {
        let items = [picture(3), picture(1)];
        let expanded = expand(&[1, 9, 2, 9], &[PICTURE], &items, 6).unwrap();
        assert_eq!(expanded.tokens, [1, 9, 9, 9, 2, 9]);
        let starts: Vec<usize> = expanded.items.iter().map(|item| item.start).collect();
        assert_eq!(starts, [1, 5]);
        assert_eq!(n_expanded(4, &items), 6);
    }

    #[test]
    fn what_a_peer_says_of_rows_takes_no_memory() {
        let check = |items: &[MediaItem], n_tokens_max| {
            let failure = expand(&[1, 9, 2], &[PICTURE], items, n_tokens_max).unwrap_err();
            assert_eq!(failure.kind, ErrorKind::ContextLengthExceeded);
        };
        check(&[picture(4)], 5);
        check(&[picture(u32::MAX)], 1 << 20);
        check(&vec![picture(u32::MAX); 1000], 1 << 20);
    }
}
