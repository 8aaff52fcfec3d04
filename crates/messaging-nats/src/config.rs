//! How a process reaches its NATS server.

use async_nats::{ConnectOptions, ServerAddr};
use planes::pulse::INTERVAL;
use std::path::{Path, PathBuf};
use std::time::Duration;
use types::{Error, Result};

/// Longest wait between two attempts to connect again.
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// Shortest such wait.
pub(crate) const BACKOFF_MIN: Duration = Duration::from_millis(20);
/// Time for one attempt, from the first packet to the server's welcome.
const ATTEMPT_MAX: Duration = Duration::from_secs(2);
/// Time between two questions whether the server is there; after two without an answer the
/// connection is made anew, which alone notices a machine that has vanished.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// Messages handed to the connection that it has not written yet; a few, because what waits longer
/// shares messages while it does.
const N_UNWRITTEN_MAX: usize = 64;

/// How to reach the server, and as whom.
#[derive(Clone)]
pub struct NatsConfig {
    /// Servers of one cluster (`nats://host:4222`, `tls://user:password@host`), tried in any order.
    pub servers: Vec<String>,
    /// The name that the server's monitoring shows.
    pub name: String,
    /// Who connects; [`NatsAuth::None`] leaves it to a user and password in the address.
    pub auth: NatsAuth,
    /// What to trust and to show besides what the address says.
    pub tls: Option<NatsTls>,
    /// How long to try at start.
    pub start_deadline: Duration,
}

/// Who connects.
#[derive(Clone)]
pub enum NatsAuth {
    /// Nobody in particular.
    None,
    /// A user with a password.
    UserPassword {
        /// The user's name.
        user: String,
        /// The user's password.
        password: String,
    },
    /// The bearer of a token.
    Token(String),
    /// The owner of a key, by its seed (`SU…`).
    NKey(String),
    /// The user of a credentials file, with a JWT and a seed.
    CredentialsFile(PathBuf),
}

/// What to trust and to show.
#[derive(Debug, Clone, Default)]
pub struct NatsTls {
    /// A PEM file of certificates to trust, instead of the system's.
    pub ca: Option<PathBuf>,
    /// PEM files of our certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl NatsConfig {
    /// The way to `servers` as nobody in particular, with 30 seconds for the start.
    pub fn new(servers: Vec<String>, name: impl Into<String>) -> Self {
        let start_deadline = Duration::from_secs(30);
        Self { servers, name: name.into(), auth: NatsAuth::None, tls: None, start_deadline }
    }

    /// The servers' addresses. Errors: none, or one that cannot be read (`InvalidInput`).
    pub(crate) fn addresses(&self) -> Result<Vec<ServerAddr>> {
        if self.servers.is_empty() {
            return Err(Error::invalid("no NATS server is configured"));
        }
        let unreadable = |idx: usize| {
            Error::invalid(format!("NATS server {} is no address like nats://host:4222", idx + 1))
        };
        let parsed = self.servers.iter().enumerate().map(|(idx, server)| {
            let address: ServerAddr = server.trim().parse().map_err(|_| unreadable(idx))?;
            let is_known = ["nats", "tls"].contains(&address.scheme());
            is_known.then_some(address).ok_or_else(|| unreadable(idx))
        });
        parsed.collect()
    }

    /// The client's options. Errors: a file that cannot be read (`InvalidInput`).
    pub(crate) async fn options(&self, addresses: &[ServerAddr]) -> Result<ConnectOptions> {
        let options = ConnectOptions::new()
            .name(&self.name)
            .client_capacity(N_UNWRITTEN_MAX)
            .connection_timeout(ATTEMPT_MAX)
            .ping_interval(PING_INTERVAL)
            .reconnect_delay_callback(backoff)
            .skip_subject_validation(true);
        let options = self.identify(options, addresses).await?;
        self.secure(options)
    }

    async fn identify(
        &self,
        options: ConnectOptions,
        addresses: &[ServerAddr],
    ) -> Result<ConnectOptions> {
        Ok(match &self.auth {
            NatsAuth::None => match addresses.iter().find(|address| address.has_user_pass()) {
                Some(address) => identify_by_address(options, address),
                None => options,
            },
            NatsAuth::UserPassword { user, password } => {
                options.user_and_password(user.clone(), password.clone())
            }
            NatsAuth::Token(token) => options.token(token.clone()),
            NatsAuth::NKey(seed) => options.nkey(seed.clone()),
            NatsAuth::CredentialsFile(path) => {
                let unreadable = |error| unreadable("credentials", path, &error);
                options.credentials_file(path).await.map_err(unreadable)?
            }
        })
    }

    fn secure(&self, options: ConnectOptions) -> Result<ConnectOptions> {
        let Some(tls) = &self.tls else { return Ok(options) };
        let mut options = options.require_tls(true);
        if let Some(ca) = &tls.ca {
            check_readable("certificates", ca)?;
            options = options.add_root_certificates(ca.clone());
        }
        if let Some((certificate, key)) = &tls.identity {
            check_readable("certificate", certificate)?;
            check_readable("key", key)?;
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
        Ok(options)
    }
}

/// A user and password in an address, or a token where only a user is.
fn identify_by_address(options: ConnectOptions, address: &ServerAddr) -> ConnectOptions {
    let user = address.username().map(decoded).unwrap_or_default();
    match address.password() {
        Some(password) => options.user_and_password(user, decoded(password)),
        None => options.token(user),
    }
}

/// A part of an address, in which `%40` stands for `@`.
fn decoded(part: &str) -> String {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let [first, after @ ..] = rest {
        let code = after.get(..2).filter(|_| *first == b'%');
        let code = code.and_then(|digits| std::str::from_utf8(digits).ok());
        let code = code.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn check_readable(what: &str, path: &Path) -> Result<()> {
    std::fs::File::open(path).map(drop).map_err(|error| unreadable(what, path, &error))
}

fn unreadable(what: &str, path: &Path, error: &std::io::Error) -> Error {
    Error::invalid(format!("the NATS {what} file {} cannot be read: {error}", path.display()))
}

/// The wait before an attempt, twice as long each time; the first attempt does not wait.
pub(crate) fn backoff(n_attempts: usize) -> Duration {
    let n_doublings = u32::try_from(n_attempts.saturating_sub(2)).unwrap_or(u32::MAX);
    let wait = BACKOFF_MIN.saturating_mul(2u32.saturating_pow(n_doublings));
    if n_attempts <= 1 { Duration::ZERO } else { wait.min(BACKOFF_MAX) }
}

// A server that stands still for a heartbeat or two is not given up.
const _: () = assert!(PING_INTERVAL.as_millis() > INTERVAL.as_millis());

impl std::fmt::Debug for NatsAuth {
    /// Secrets are not shown.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::UserPassword { .. } => "UserPassword",
            Self::Token(_) => "Token",
            Self::NKey(_) => "NKey",
            Self::CredentialsFile(_) => "CredentialsFile",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_limit() {
        let waits = [0, 1, 2, 3, 4, 20, usize::MAX].map(|n| backoff(n).as_millis());
        assert_eq!(waits, [0, 0, 20, 40, 80, 500, 500]);
    }

    #[test]
    fn parts_of_an_address_are_decoded() {
        for (part, expected) in [("a%40b", "a@b"), ("100%", "100%"), ("%zz%4", "%zz%4"), ("", "")] {
            assert_eq!(decoded(part), expected);
        }
    }

    #[test]
    fn an_address_that_is_none_is_named() {
        let config = |servers: &[&str]| {
            NatsConfig::new(servers.iter().map(|server| server.to_string()).collect(), "test")
        };
        for (servers, expected) in [
            (&[][..], "no NATS server is configured"),
            (&["ok:4222", "http://x"], "NATS server 2 is no address like nats://host:4222"),
            (&["nats://[::"], "NATS server 1 is no address like nats://host:4222"),
        ] {
            assert_eq!(config(servers).addresses().unwrap_err().message, expected);
        }
        assert_eq!(config(&["host", "tls://u:p@host:1"]).addresses().map(|a| a.len()), Ok(2));
    }
}
