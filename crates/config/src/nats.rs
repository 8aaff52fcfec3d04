//! How NATS is reached: where, as whom, and under which certificates.

use crate::cluster::servers;
use crate::etcd::go_together;
use crate::secret::{Hidden, HiddenText};
use std::path::{Path, PathBuf};
use types::{Error, Result};

const URL: &str = "nats://127.0.0.1:4222";

/// What users write about NATS.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "NATS")]
pub struct NatsFlags {
    /// Where NATS listens, several separated by commas; the variables `NATS_URL` and `NATS_SERVER`
    /// are heard as well [default: nats://127.0.0.1:4222].
    #[arg(long, env = "TRIPTYCH_NATS_URL", value_name = "URL,…", hide_env_values = true)]
    pub nats_url: Option<String>,
    /// The user to log in as [default: none].
    #[arg(long, env = "TRIPTYCH_NATS_USER", value_name = "NAME")]
    pub nats_user: Option<String>,
    /// A file with that user's password.
    #[arg(long, env = "TRIPTYCH_NATS_PASSWORD_FILE", value_name = "FILE")]
    pub nats_password_file: Option<PathBuf>,
    /// A file with a token to log in with.
    #[arg(long, env = "TRIPTYCH_NATS_TOKEN_FILE", value_name = "FILE")]
    pub nats_token_file: Option<PathBuf>,
    /// A file with the seed of an NKey to log in with.
    #[arg(long, env = "TRIPTYCH_NATS_NKEY_FILE", value_name = "FILE")]
    pub nats_nkey_file: Option<PathBuf>,
    /// A `.creds` file to log in with, as NATS's tools write them.
    #[arg(long, env = "TRIPTYCH_NATS_CREDS_FILE", value_name = "FILE")]
    pub nats_creds_file: Option<PathBuf>,
    /// A PEM file of the authorities that sign NATS's certificate [default: the system's].
    #[arg(long, env = "TRIPTYCH_NATS_CA_FILE", value_name = "FILE")]
    pub nats_ca_file: Option<PathBuf>,
    /// A PEM file of our own certificate, for a NATS that asks for one.
    #[arg(long, env = "TRIPTYCH_NATS_CERT_FILE", value_name = "FILE")]
    pub nats_cert_file: Option<PathBuf>,
    /// A PEM file of that certificate's key.
    #[arg(long, env = "TRIPTYCH_NATS_KEY_FILE", value_name = "FILE")]
    pub nats_key_file: Option<PathBuf>,
}

/// How NATS is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsConfig {
    /// `nats://` or `tls://` URLs of its servers; they may hold a password, so never show them.
    pub servers: Vec<HiddenUrl>,
    /// How we say who we are.
    pub auth: NatsAuth,
    /// Certificates; `None` where the system's authorities do.
    pub tls: Option<NatsTls>,
}

/// How we say who we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NatsAuth {
    /// Not at all, or by what the URL says.
    None,
    /// Name and password.
    UserPassword(String, HiddenText),
    /// A shared token.
    Token(HiddenText),
    /// The seed of an NKey.
    NKey(HiddenText),
    /// A file of credentials.
    CredentialsFile(PathBuf),
}

/// Certificates, as PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsTls {
    /// Who signs the server's.
    pub ca: Option<PathBuf>,
    /// Our own certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl NatsConfig {
    /// The servers without what must not be shown.
    pub fn shown(&self) -> String {
        let shown: Vec<String> = self.servers.iter().map(HiddenUrl::shown).collect();
        shown.join(",")
    }
}

impl NatsFlags {
    /// Reads the files that the flags name; `usual` is the URL that the environment says.
    pub(crate) fn resolve(self, usual: Option<String>) -> Result<NatsConfig> {
        let (auth, tls) = (self.auth()?, self.tls()?);
        let given = self.nats_url.or(usual).unwrap_or(URL.to_owned());
        let scheme = if tls.is_some() { "tls" } else { "nats" };
        let servers = servers("--nats-url", &given, scheme, &["nats", "tls"])?;
        Ok(NatsConfig { servers: servers.into_iter().map(HiddenUrl).collect(), auth, tls })
    }

    /// At most one way to log in.
    fn auth(&self) -> Result<NatsAuth> {
        let words = |flag, file: &Option<PathBuf>| {
            file.as_deref().map(|file| Hidden::read_words(flag, file)).transpose()
        };
        let password = words("--nats-password-file", &self.nats_password_file)?;
        let user = match (self.nats_user.clone(), password) {
            (Some(name), Some(password)) => Some(NatsAuth::UserPassword(name, password)),
            (None, None) => None,
            _ => return Err(go_together("--nats-user", "--nats-password-file")),
        };
        let credentials = self.nats_creds_file.as_deref();
        let credentials =
            credentials.map(|file| readable("--nats-creds-file", file)).transpose()?;
        let ways = [
            user,
            words("--nats-token-file", &self.nats_token_file)?.map(NatsAuth::Token),
            words("--nats-nkey-file", &self.nats_nkey_file)?.map(NatsAuth::NKey),
            credentials.map(NatsAuth::CredentialsFile),
        ];
        let mut ways = ways.into_iter().flatten();
        match (ways.next(), ways.next()) {
            (_, Some(_)) => Err(Error::invalid(
                "expected one of --nats-user, --nats-token-file, --nats-nkey-file and \
                 --nats-creds-file, not several",
            )),
            (way, None) => Ok(way.unwrap_or(NatsAuth::None)),
        }
    }

    fn tls(&self) -> Result<Option<NatsTls>> {
        let check = |flag, file: &Option<PathBuf>| {
            file.as_deref().map(|file| readable(flag, file)).transpose()
        };
        let ca = check("--nats-ca-file", &self.nats_ca_file)?;
        let certificate = check("--nats-cert-file", &self.nats_cert_file)?;
        let identity = match (certificate, check("--nats-key-file", &self.nats_key_file)?) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err(go_together("--nats-cert-file", "--nats-key-file")),
        };
        let is_asked_for = ca.is_some() || identity.is_some();
        Ok(is_asked_for.then_some(NatsTls { ca, identity }))
    }
}

/// A URL that may hold a password, which neither `Debug` nor [`HiddenUrl::shown`] shows.
#[derive(Clone, PartialEq, Eq)]
pub struct HiddenUrl(String);

impl HiddenUrl {
    /// All of it.
    pub fn whole(&self) -> &str {
        &self.0
    }

    /// Scheme, host and port.
    pub fn shown(&self) -> String {
        match self.0.split_once("://") {
            Some((scheme, rest)) => {
                format!("{scheme}://{}", rest.rsplit('@').next().unwrap_or_default())
            }
            None => String::new(),
        }
    }
}

impl std::fmt::Debug for HiddenUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown())
    }
}

/// A file that others will read; whether it can be is said now, with the flag that names it.
fn readable(flag: &str, path: &Path) -> Result<PathBuf> {
    Hidden::read(flag, path).map(|_| path.to_owned())
}
