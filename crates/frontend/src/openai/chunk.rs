//! An answer piece by piece: server-sent events of `chat.completion.chunk` objects.
//!
//! What all chunks of a request have in common is written once; each event is then a few appends to
//! a buffer whose memory is used again once its pieces have been sent.

use super::completion::{Header, finish_word, usage};
use super::error::ApiError;
use super::logprobs;
use crate::answer::{Answer, Choice};
use crate::conversation::Delivery;
use bytes::{BufMut, Bytes, BytesMut};
use text::Tokenizer;

const USAGE_LATER: &str = ",\"usage\":null";

/// Writes the events of one request.
pub(crate) struct ChunkWriter {
    out: BytesMut,
    /// `data: {…,` up to where `choices` begins.
    opening: String,
    include_usage: bool,
    /// What has been written of each choice.
    written: Vec<Written>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Written {
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
        Self {
            out: BytesMut::new(),
            opening,
            include_usage: delivery.include_usage,
            written: vec![Written::Nothing; n_choices],
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
            if self.written[idx] == Written::Nothing {
                self.choice(idx, "null", "null", |out| {
                    out.put_slice(br#""role":"assistant","content":"","refusal":null"#);
                });
                self.written[idx] = Written::Beginning;
            }
            if !choice.pending_text.is_empty() || !choice.pending_tokens.is_empty() {
                self.piece(idx, choice, tokenizer);
            }
            if let (Some(reason), Written::Beginning) = (choice.finish, self.written[idx]) {
                self.choice(idx, "null", &format!("\"{}\"", finish_word(reason)), |_| {});
                self.written[idx] = Written::End;
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

    fn piece(&mut self, idx: usize, choice: &mut Choice, tokenizer: &Tokenizer) {
        let tokens = std::mem::take(&mut choice.pending_tokens);
        let logprobs = match tokens.is_empty() {
            true => "null".to_owned(),
            false => logprobs::content(&tokens, tokenizer).to_string(),
        };
        self.choice(idx, &logprobs, "null", |out| {
            out.put_slice(b"\"content\":");
            // Writing into memory cannot fail.
            let _ = serde_json::to_writer(out.writer(), &choice.pending_text);
        });
        choice.pending_text.clear();
    }

    fn choice(
        &mut self,
        idx: usize,
        logprobs: &str,
        finish: &str,
        write_delta: impl FnOnce(&mut BytesMut),
    ) {
        let number = idx.to_string();
        let usage = if self.include_usage { USAGE_LATER } else { "" };
        self.out.put_slice(self.opening.as_bytes());
        self.put(&["\"choices\":[{\"index\":", &number, ",\"delta\":{"]);
        write_delta(&mut self.out);
        self.put(&["},\"logprobs\":", logprobs, ",\"finish_reason\":", finish, "}]", usage]);
        self.put(&["}\n\n"]);
    }

    fn put(&mut self, texts: &[&str]) {
        texts.iter().for_each(|text| self.out.put_slice(text.as_bytes()));
    }
}
