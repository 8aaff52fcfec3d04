//! An answer piece by piece: server-sent events of `chat.completion.chunk` objects.
//!
//! What all chunks of a request have in common is written once; each event is then a few appends.

use super::completion::{finish_word, usage};
use super::error::ApiError;
use super::logprobs;
use crate::answer::{Answer, Choice};
use crate::conversation::Delivery;
use std::fmt::Write;
use text::Tokenizer;

/// Names that every chunk of a request repeats.
pub(crate) struct Header<'a> {
    pub(crate) id: &'a str,
    pub(crate) created_s: u64,
    pub(crate) model: &'a str,
    pub(crate) fingerprint: &'a str,
}

/// Writes the events of one request.
pub(crate) struct ChunkWriter {
    /// `data: {…,` up to where `choices` begins.
    opening: String,
    include_usage: bool,
    /// Choices whose end has been written.
    ended: Vec<bool>,
}

impl ChunkWriter {
    pub(crate) fn new(header: &Header<'_>, n_choices: usize, delivery: Delivery) -> Self {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let opening = format!(
            "data: {{\"id\":{},\"object\":\"chat.completion.chunk\",\"created\":{},\"model\":{},\
             \"system_fingerprint\":{},",
            quoted(header.id),
            header.created_s,
            quoted(header.model),
            quoted(header.fingerprint),
        );
        let ended = vec![false; n_choices];
        Self { opening, include_usage: delivery.include_usage, ended }
    }

    /// The first event of each choice: who speaks.
    pub(crate) fn roles(&self, out: &mut String) {
        for idx in 0..self.ended.len() {
            let delta = r#"{"role":"assistant","content":""}"#;
            self.choice(out, idx, &Piece { delta, ..Piece::default() });
        }
    }

    /// Events for all that is pending in `answer`.
    pub(crate) fn pieces(&mut self, out: &mut String, answer: &mut Answer) {
        let tokenizer = &answer.model.tokenizer;
        for (idx, choice) in answer.choices.iter_mut().enumerate() {
            if !choice.pending_text.is_empty() || !choice.pending_tokens.is_empty() {
                self.piece(out, idx, choice, tokenizer);
            }
            if let Some(reason) = choice.finish
                && !std::mem::replace(&mut self.ended[idx], true)
            {
                let finish = &format!("\"{}\"", finish_word(reason));
                self.choice(out, idx, &Piece { finish, ..Piece::default() });
            }
        }
    }

    /// The last events: usage if it was asked for, and the end mark.
    pub(crate) fn end(&self, out: &mut String, answer: &Answer) {
        if self.include_usage {
            let usage = usage(&answer.usage);
            // Writing into a string cannot fail.
            let _ = write!(out, "{}\"choices\":[],\"usage\":{usage}}}\n\n", self.opening);
        }
        out.push_str("data: [DONE]\n\n");
    }

    fn piece(&self, out: &mut String, idx: usize, choice: &mut Choice, tokenizer: &Tokenizer) {
        let text = serde_json::Value::from(std::mem::take(&mut choice.pending_text));
        let tokens = std::mem::take(&mut choice.pending_tokens);
        let logprobs = match tokens.is_empty() {
            true => "null".to_owned(),
            false => logprobs::content(&tokens, tokenizer).to_string(),
        };
        let delta = &format!("{{\"content\":{text}}}");
        self.choice(out, idx, &Piece { delta, logprobs: &logprobs, ..Piece::default() });
    }

    fn choice(&self, out: &mut String, idx: usize, piece: &Piece<'_>) {
        let Piece { delta, logprobs, finish } = piece;
        let usage = if self.include_usage { ",\"usage\":null" } else { "" };
        // Writing into a string cannot fail.
        let _ = write!(
            out,
            "{}\"choices\":[{{\"index\":{idx},\"delta\":{delta},\"logprobs\":{logprobs},\
             \"finish_reason\":{finish}}}]{usage}}}\n\n",
            self.opening,
        );
    }
}

/// What one event says of a choice, as JSON.
struct Piece<'a> {
    delta: &'a str,
    logprobs: &'a str,
    finish: &'a str,
}

impl Default for Piece<'_> {
    fn default() -> Self {
        Self { delta: "{}", logprobs: "null", finish: "null" }
    }
}

/// The event for a failure after the first piece; nothing follows it.
pub(crate) fn error_event(error: &ApiError) -> String {
    format!("event: error\ndata: {}\n\n", error.body())
}
