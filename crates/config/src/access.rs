//! Who may ask over HTTP, and how: keys, TLS, and pages of other origins.

use crate::secret::{Hidden, HiddenText};
use std::path::{Path, PathBuf};
use types::{Error, Result};

/// Most keys of a file.
const N_KEYS_MAX: usize = 10_000;

/// What users write about who may ask.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "HTTP")]
pub struct AccessFlags {
    /// A file of API keys, one a line; empty lines and lines that begin with `#` are none. Every
    /// request but those for `/health` and `/live` must then carry one as `authorization: Bearer`
    /// [default: none, everybody may ask].
    #[arg(long, env = "TRIPTYCH_API_KEY_FILE", value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// A PEM file of the server's certificate and those that sign it; with it the port speaks HTTPS
    /// only [default: none, the port speaks HTTP].
    #[arg(long, env = "TRIPTYCH_TLS_CERT_PATH", value_name = "FILE")]
    pub tls_cert_path: Option<PathBuf>,
    /// A PEM file of that certificate's key.
    #[arg(long, env = "TRIPTYCH_TLS_KEY_PATH", value_name = "FILE")]
    pub tls_key_path: Option<PathBuf>,
    /// Origins whose pages may ask from a browser, separated by commas, such as
    /// `https://chat.example.com`; `*` stands for all [default: none].
    #[arg(
        long,
        env = "TRIPTYCH_CORS_ALLOWED_ORIGINS",
        value_name = "ORIGINS",
        value_delimiter = ','
    )]
    pub cors_allowed_origins: Vec<String>,
}

/// Who may ask, resolved.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AccessConfig {
    /// One of these must come with a request; `None` lets everybody ask.
    pub api_keys: Option<Vec<HiddenText>>,
    /// Certificate and key, as PEM; `None` is HTTP without TLS.
    pub tls: Option<ServerTls>,
    /// Whose pages may ask.
    pub cors: CorsOrigins,
}

/// The server's proof of who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTls {
    /// PEM of the certificate and those that sign it.
    pub certificates: Hidden,
    /// PEM of its key.
    pub key: Hidden,
}

/// Origins whose pages may ask from a browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CorsOrigins {
    /// Every page.
    All,
    /// Those of these origins; none where it is empty.
    These(Vec<String>),
}

impl Default for CorsOrigins {
    fn default() -> Self {
        Self::These(Vec::new())
    }
}

impl AccessFlags {
    /// Reads the files that the flags name and checks every value.
    pub fn resolve(self) -> Result<AccessConfig> {
        let tls = match (self.tls_cert_path, self.tls_key_path) {
            (Some(certificates), Some(key)) => Some(ServerTls {
                certificates: Hidden::read("--tls-cert-path", &certificates)?,
                key: Hidden::read("--tls-key-path", &key)?,
            }),
            (None, None) => None,
            (Some(_), None) => return Err(alone("--tls-cert-path", "--tls-key-path")),
            (None, Some(_)) => return Err(alone("--tls-key-path", "--tls-cert-path")),
        };
        Ok(AccessConfig {
            api_keys: self.api_key_file.as_deref().map(api_keys).transpose()?,
            tls,
            cors: cors(&self.cors_allowed_origins)?,
        })
    }
}

fn alone(given: &str, missing: &str) -> Error {
    Error::invalid(format!("{given}: it needs {missing} beside it"))
}

fn api_keys(path: &Path) -> Result<Vec<HiddenText>> {
    const FLAG: &str = "--api-key-file";
    let wrong = |why: String| Error::invalid(format!("{FLAG} {}: {why}", path.display()));
    let text = Hidden::read_words(FLAG, path)?;
    let lines = text.text().lines().map(str::trim).enumerate();
    let keys: Vec<_> =
        lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).collect();
    // A key with white space in it could never be sent.
    if let Some((idx, _)) = keys.iter().find(|(_, key)| !key.bytes().all(|c| c.is_ascii_graphic()))
    {
        let line = idx + 1;
        return Err(wrong(format!("line {line}: expected a key of printable ASCII, no spaces")));
    }
    if keys.is_empty() || keys.len() > N_KEYS_MAX {
        return Err(wrong(format!("expected 1 to {N_KEYS_MAX} keys, one a line")));
    }
    Ok(keys.into_iter().map(|(_, key)| HiddenText::new(key)).collect())
}

fn cors(words: &[String]) -> Result<CorsOrigins> {
    let words: Vec<&str> =
        words.iter().map(|word| word.trim()).filter(|word| !word.is_empty()).collect();
    if words == ["*"] {
        return Ok(CorsOrigins::All);
    }
    let is_origin = |word: &str| {
        let host = ["http://", "https://"].iter().find_map(|scheme| word.strip_prefix(scheme));
        host.is_some_and(|host| {
            !host.is_empty() && !host.contains('/') && host.bytes().all(|c| c.is_ascii_graphic())
        })
    };
    if let Some(word) = words.iter().find(|word| !is_origin(word)) {
        return Err(Error::invalid(format!(
            "--cors-allowed-origins: {word:?} is not accepted; expected * alone, or origins such \
             as https://chat.example.com, without a path"
        )));
    }
    // Browsers write them in lower case.
    Ok(CorsOrigins::These(words.into_iter().map(str::to_ascii_lowercase).collect()))
}
