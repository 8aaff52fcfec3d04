//! One error type for everything that can fail a request, and the closed list of its kinds.
//!
//! The kind says who must act; the frontend alone turns it into an HTTP status.

use std::fmt;

/// Short for a result that fails with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Who must act on a failure, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The client sent something malformed or contradictory.
    InvalidInput,
    /// Prompt and answer do not fit the model's context.
    ContextLengthExceeded,
    /// No such model, file or request.
    NotFound,
    /// The client may not do this (a path outside the allowed folder, say).
    Forbidden,
    /// A body, file or picture is over its size limit.
    TooLarge,
    /// The bytes are of no medium we read.
    UnsupportedMedia,
    /// A queue is full; the client may try again.
    Overloaded,
    /// A deadline passed.
    Timeout,
    /// The client went away or cancelled.
    Cancelled,
    /// The origin of a medium failed.
    MediaOrigin,
    /// A role needed for the request is not there.
    Unavailable,
    /// A peer was lost in the middle of the work.
    PeerLost,
    /// A fault of ours.
    Internal,
}

impl ErrorKind {
    /// Every kind, in the order of declaration (for tables and tests).
    pub const ALL: [Self; 13] = [
        Self::InvalidInput,
        Self::ContextLengthExceeded,
        Self::NotFound,
        Self::Forbidden,
        Self::TooLarge,
        Self::UnsupportedMedia,
        Self::Overloaded,
        Self::Timeout,
        Self::Cancelled,
        Self::MediaOrigin,
        Self::Unavailable,
        Self::PeerLost,
        Self::Internal,
    ];
}

/// A failure of one request, in words that may be shown to its client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Who must act.
    pub kind: ErrorKind,
    /// What happened, in a sentence for the client; no internal addresses, no decoder text.
    pub message: String,
    /// The request field at fault, where there is one (`messages[0].content[1].image_url`).
    pub param: Option<String>,
}

impl Error {
    /// An error of `kind` with a message for the client.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), param: None }
    }

    /// The client's input is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidInput, message)
    }

    /// A fault of ours.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// The same error, naming the request field at fault.
    #[must_use]
    pub fn at(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.param {
            Some(param) => write!(f, "{param}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for Error {}
