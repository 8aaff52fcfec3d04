//! Keeps clients from writing special tokens into a prompt.
//!
//! A template renders its own special tokens and the client's words into one string, in which
//! `<|im_end|>` is the same whoever wrote it. So, before rendering, every special token in a string
//! of the client is broken by a mark, a noncharacter of Unicode, after its first character; and so
//! is the end (or beginning) of a string that the template might complete to one by what it puts
//! beside it. Templates trim, split, join and dump strings, and the marks stay where they are.
//! After rendering, what is a special token in the marked text is the template's; the marks are
//! then taken out and the rest is encoded as plain text.
//!
//! Strings without any of this are not changed, so ordinary prompts render and encode as ever.
//! Roles must be checked by the caller: templates may well build special tokens from them.

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::{Map, Value};
use std::collections::HashSet;

/// Breaks a special token. Clients' own occurrences are dropped: it means nothing between systems.
const MARK: char = '\u{FDD0}';

/// Finds special tokens.
pub(crate) struct Guard {
    /// Every occurrence, overlapping ones too.
    any: AhoCorasick,
    /// As the tokenizer takes them: the leftmost, the longest.
    taken: AhoCorasick,
    /// What special tokens begin with, and end with, without being all of one.
    beginnings: HashSet<String>,
    endings: HashSet<String>,
    longest: usize,
}

/// A piece of a rendered prompt.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Plain text, the marks taken out.
    Plain(String),
    /// The template's special token of this index.
    Special(usize),
}

impl Guard {
    /// A guard against these tokens.
    pub(crate) fn new(special: &[String]) -> Option<Self> {
        let (mut beginnings, mut endings) = (HashSet::new(), HashSet::new());
        for token in special {
            for (at, _) in token.char_indices().skip(1) {
                beginnings.insert(token[..at].to_owned());
                endings.insert(token[at..].to_owned());
            }
        }
        let longest = special.iter().map(String::len).max().unwrap_or(0);
        let taken = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(special);
        let any = AhoCorasick::new(special).ok()?;
        Some(Self { any, taken: taken.ok()?, beginnings, endings, longest })
    }

    /// The same JSON with every string guarded, names too.
    pub(crate) fn protect(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.protect_text(text)),
            Value::Array(items) => items.iter().map(|item| self.protect(item)).collect(),
            Value::Object(fields) => Value::Object(self.protect_fields(fields)),
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        }
    }

    /// The same fields with every string guarded.
    pub(crate) fn protect_fields(&self, fields: &Map<String, Value>) -> Map<String, Value> {
        let protected =
            |(name, value): (&String, &Value)| (self.protect_text(name), self.protect(value));
        fields.iter().map(protected).collect()
    }

    /// Whether a rendered prompt has marks.
    pub(crate) fn is_marked(rendered: &str) -> bool {
        rendered.contains(MARK)
    }

    /// Splits a rendered prompt into the template's special tokens and the rest.
    pub(crate) fn parts(&self, rendered: &str) -> Vec<Part> {
        let mut parts = Vec::new();
        let plain = |text: &str| {
            let text = text.replace(MARK, "");
            if text.is_empty() { None } else { Some(Part::Plain(text)) }
        };
        let mut end = 0;
        for found in self.taken.find_iter(rendered) {
            parts.extend(plain(&rendered[end..found.start()]));
            parts.push(Part::Special(found.pattern().as_usize()));
            end = found.end();
        }
        parts.extend(plain(&rendered[end..]));
        parts
    }

    fn protect_text(&self, text: &str) -> String {
        let text = text.replace(MARK, "");
        let mut breaks: Vec<usize> = self
            .any
            .find_overlapping_iter(&text)
            .map(|found| found.start() + first_character(&text[found.start()..]))
            .collect();
        breaks.extend(self.begins_a_token_at_its_end(&text).then_some(text.len()));
        breaks.extend(self.ends_a_token_at_its_beginning(&text).then_some(0));
        breaks.sort_unstable();
        breaks.dedup();
        let mut marked = text;
        for at in breaks.into_iter().rev() {
            marked.insert(at, MARK);
        }
        marked
    }

    fn begins_a_token_at_its_end(&self, text: &str) -> bool {
        let ends = text.char_indices().rev().map(|(at, _)| &text[at..]);
        ends.take_while(|end| end.len() < self.longest).any(|end| self.beginnings.contains(end))
    }

    fn ends_a_token_at_its_beginning(&self, text: &str) -> bool {
        let beginnings =
            text.char_indices().map(|(at, character)| &text[..at + character.len_utf8()]);
        let mut short = beginnings.take_while(|beginning| beginning.len() < self.longest);
        short.any(|beginning| self.endings.contains(beginning))
    }
}

fn first_character(text: &str) -> usize {
    text.chars().next().map_or(0, char::len_utf8)
}
