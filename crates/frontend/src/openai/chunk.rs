//! An answer piece by piece: server-sent events of `chat.completion.chunk` objects.
//!
//! Every piece of text is an event of its own; those that are ready together share a write. What
//! all events of a choice have in common is written once, so each event is three appends to a
//! buffer.

use super::completion::{Header, finish_word, usage};
use super::error::ApiError;
use super::logprobs;
use crate::answer::{Answer, Choice};
use crate::conversation::Delivery;
use bytes::{BufMut, Bytes, BytesMut};
use text::Tokenizer;
use types::output::OutputToken;

/// What ends an event that says no more of its choice, where usage comes later and where it does
/// not.
const PLAIN_END: &str = "},\"logprobs\":null,\"finish_reason\":null}]}\n\n";
const PLAIN_END_USAGE_LATER: &str =
    "},\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}\n\n";

/// Bytes that a piece of text takes beside itself: `"content":` and its quotes.
const CONTENT_BYTES: usize = 12;

/// Writes the events of one request.
pub(crate) struct ChunkWriter {
    out: BytesMut,
    /// `data: {…,` up to where `choices` begins.
    opening: String,
    include_usage: bool,
    /// What has been written of each choice.
    written: Vec<Written>,
}

/// One choice's events.
struct Written {
    /// `data: {…"delta":{`
    opening: String,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Nothing,
    Beginning,
    End,
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
        let written = |idx| Written {
            opening: format!("{opening}\"choices\":[{{\"index\":{idx},\"delta\":{{"),
            state: State::Nothing,
        };
        Self {
            out: BytesMut::new(),
            include_usage: delivery.include_usage,
            written: (0..n_choices).map(written).collect(),
            opening,
        }
    }

    /// Whether there is nothing to send.
    pub(crate) fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// What has been written since the last call.
    pub(crate) fn take(&mut self) -> Bytes {
        self.out.split().freeze()
    }

    /// Events for all that is pending in `answer`; a choice's first says who speaks.
    pub(crate) fn pieces(&mut self, answer: &mut Answer) {
        let tokenizer = &answer.model.tokenizer;
        for (idx, choice) in answer.choices.iter_mut().enumerate() {
            if self.written[idx].state == State::Nothing {
                self.event(idx, |out| {
                    out.put_slice(br#""role":"assistant","content":"","refusal":null"#);
                });
                self.written[idx].state = State::Beginning;
            }
            self.pending(idx, choice, tokenizer);
            if let (Some(reason), State::Beginning) = (choice.finish, self.written[idx].state) {
                self.full_event(idx, "null", &format!("\"{}\"", finish_word(reason)), |_| {});
                self.written[idx].state = State::End;
            }
        }
    }

    /// The last events: usage if it was asked for, and the end mark.
    pub(crate) fn end(&mut self, answer: &Answer) {
        if self.include_usage {
            self.out.put_slice(self.opening.as_bytes());
            let usage = usage(&answer.usage).to_string();
            self.put(&["\"choices\":[],\"usage\":", &usage, "}\n\n"]);
        }
        self.put(&["data: [DONE]\n\n"]);
    }

    /// The event for a failure after the first piece; nothing follows it.
    pub(crate) fn error(&mut self, error: &ApiError) {
        self.put(&["event: error\ndata: ", &error.body(), "\n\n"]);
    }

    fn pending(&mut self, idx: usize, choice: &mut Choice, tokenizer: &Tokenizer) {
        let pending = &mut choice.pending;
        let event_bytes =
            self.written[idx].opening.len() + CONTENT_BYTES + PLAIN_END_USAGE_LATER.len();
        self.out.reserve(pending.len() * event_bytes + pending.text.len());
        for (text, tokens) in pending.pieces() {
            self.piece(idx, text, tokens, tokenizer);
        }
        pending.clear();
    }

    fn piece(&mut self, idx: usize, text: &str, tokens: &[OutputToken], tokenizer: &Tokenizer) {
        let write_delta = |out: &mut BytesMut| {
            out.put_slice(b"\"content\":");
            // Writing into memory cannot fail.
            let _ = serde_json::to_writer(out.writer(), text);
        };
        if tokens.is_empty() {
            self.event(idx, write_delta);
        } else {
            let logprobs = logprobs::content(tokens, tokenizer).to_string();
            self.full_event(idx, &logprobs, "null", write_delta);
        }
    }

    /// An event of a choice that goes on, without log probabilities.
    fn event(&mut self, idx: usize, write_delta: impl FnOnce(&mut BytesMut)) {
        self.out.put_slice(self.written[idx].opening.as_bytes());
        write_delta(&mut self.out);
        let end = if self.include_usage { PLAIN_END_USAGE_LATER } else { PLAIN_END };
        self.out.put_slice(end.as_bytes());
    }

    fn full_event(
        &mut self,
        idx: usize,
        logprobs: &str,
        finish: &str,
        write_delta: impl FnOnce(&mut BytesMut),
    ) {
        self.out.put_slice(self.written[idx].opening.as_bytes());
        write_delta(&mut self.out);
        let usage = if self.include_usage { ",\"usage\":null" } else { "" };
        self.put(&["},\"logprobs\":", logprobs, ",\"finish_reason\":", finish, "}]", usage]);
        self.put(&["}\n\n"]);
    }

    fn put(&mut self, texts: &[&str]) {
        texts.iter().for_each(|text| self.out.put_slice(text.as_bytes()));
    }
}
