//! What must not be shown: passwords, tokens and keys, read from files and hidden from logs.

use std::fmt;
use std::path::Path;
use types::{Error, Result};

/// Passwords, keys and certificates are shorter; whatever is larger is another file by mistake.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Bytes that `Debug` does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(Vec<u8>);

impl Hidden {
    /// Hides `bytes`.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes of the file that `flag` names. Errors name both.
    pub fn read(flag: &str, path: &Path) -> Result<Self> {
        let wrong = |why: String| Error::invalid(format!("{flag} {}: {why}", path.display()));
        let size = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
        if size > FILE_BYTES_MAX {
            return Err(wrong(format!("larger than {FILE_BYTES_MAX} bytes")));
        }
        std::fs::read(path).map(Self).map_err(|error| wrong(error.to_string()))
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The words of the file that `flag` names, without the white space around them.
    pub(crate) fn read_words(flag: &str, path: &Path) -> Result<HiddenText> {
        let wrong = |why| Error::invalid(format!("{flag} {}: {why}", path.display()));
        let bytes = Self::read(flag, path)?.0;
        let text = String::from_utf8(bytes).map_err(|_| wrong("not text"))?;
        match text.trim() {
            "" => Err(wrong("the file is empty")),
            words => Ok(HiddenText(words.to_owned())),
        }
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden(..)")
    }
}

/// Text that `Debug` does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct HiddenText(String);

impl HiddenText {
    /// Hides `text`.
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for HiddenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HiddenText(..)")
    }
}
