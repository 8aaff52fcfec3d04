//! How etcd is reached: where, as whom, and under which certificates.

use crate::cluster::servers;
use crate::secret::{Hidden, HiddenText};
use std::path::PathBuf;
use types::{Error, Result};

const ENDPOINT: &str = "http://127.0.0.1:2379";

/// What users write about etcd.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "etcd")]
pub struct EtcdFlags {
    /// Where etcd listens, several separated by commas; the variable `ETCD_ENDPOINTS` is heard as
    /// well [default: http://127.0.0.1:2379].
    #[arg(long, env = "TRIPTYCH_ETCD_ENDPOINTS", value_name = "URL,…", hide_env_values = true)]
    pub etcd_endpoints: Option<String>,
    /// The user to log in as [default: none].
    #[arg(long, env = "TRIPTYCH_ETCD_USER", value_name = "NAME")]
    pub etcd_user: Option<String>,
    /// A file with that user's password.
    #[arg(long, env = "TRIPTYCH_ETCD_PASSWORD_FILE", value_name = "FILE")]
    pub etcd_password_file: Option<PathBuf>,
    /// A PEM file of the authorities that sign etcd's certificate [default: the system's].
    #[arg(long, env = "TRIPTYCH_ETCD_CA_FILE", value_name = "FILE")]
    pub etcd_ca_file: Option<PathBuf>,
    /// A PEM file of our own certificate, for an etcd that asks for one.
    #[arg(long, env = "TRIPTYCH_ETCD_CERT_FILE", value_name = "FILE")]
    pub etcd_cert_file: Option<PathBuf>,
    /// A PEM file of that certificate's key.
    #[arg(long, env = "TRIPTYCH_ETCD_KEY_FILE", value_name = "FILE")]
    pub etcd_key_file: Option<PathBuf>,
    /// The name that etcd's certificate must bear [default: the host of its URL].
    #[arg(long, env = "TRIPTYCH_ETCD_TLS_NAME", value_name = "NAME")]
    pub etcd_tls_name: Option<String>,
}

/// How etcd is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdConfig {
    /// `http://` or `https://` URLs of its members.
    pub endpoints: Vec<String>,
    /// Name and password.
    pub user: Option<(String, HiddenText)>,
    /// Certificates; `None` where nothing is encrypted.
    pub tls: Option<EtcdTls>,
}

/// Certificates, as PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EtcdTls {
    /// Who signs the server's.
    pub ca: Option<Hidden>,
    /// Our own certificate and its key.
    pub identity: Option<(Hidden, Hidden)>,
    /// The name that the server's must bear.
    pub name: Option<String>,
}

impl EtcdFlags {
    /// Reads the files that the flags name; `usual` are the endpoints that the environment says.
    pub(crate) fn resolve(self, usual: Option<String>) -> Result<EtcdConfig> {
        let tls = self.tls()?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let given = self.etcd_endpoints.or(usual).unwrap_or(ENDPOINT.to_owned());
        let endpoints = servers("--etcd-endpoints", &given, scheme, &["http", "https"])?;
        // Endpoints are shown in logs, and etcd's protocol takes no password from them anyway.
        if endpoints.iter().any(|url| url.contains('@')) {
            return Err(Error::invalid(
                "--etcd-endpoints: expected URLs without a user; give --etcd-user and \
                 --etcd-password-file",
            ));
        }
        let n_plain = endpoints.iter().filter(|url| url.starts_with("http://")).count();
        let tls = match n_plain {
            0 => Some(tls.unwrap_or_default()),
            n if n == endpoints.len() && tls.is_none() => None,
            _ => {
                return Err(Error::invalid(
                    "--etcd-endpoints: expected https:// URLs only, where one is given or a \
                     certificate",
                ));
            }
        };
        let user = match (self.etcd_user, self.etcd_password_file) {
            (None, None) => None,
            (Some(name), Some(file)) => {
                Some((name, Hidden::read_words("--etcd-password-file", &file)?))
            }
            _ => return Err(go_together("--etcd-user", "--etcd-password-file")),
        };
        Ok(EtcdConfig { endpoints, user, tls })
    }

    fn tls(&self) -> Result<Option<EtcdTls>> {
        let read = |flag, file: &Option<PathBuf>| {
            file.as_deref().map(|file| Hidden::read(flag, file)).transpose()
        };
        let ca = read("--etcd-ca-file", &self.etcd_ca_file)?;
        let certificate = read("--etcd-cert-file", &self.etcd_cert_file)?;
        let identity = match (certificate, read("--etcd-key-file", &self.etcd_key_file)?) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err(go_together("--etcd-cert-file", "--etcd-key-file")),
        };
        let name = self.etcd_tls_name.clone();
        let is_asked_for = ca.is_some() || identity.is_some() || name.is_some();
        Ok(is_asked_for.then_some(EtcdTls { ca, identity, name }))
    }
}

/// Two flags of which only one was given.
pub(crate) fn go_together(one: &str, other: &str) -> Error {
    Error::invalid(format!("{one} and {other} go together; expected both or neither"))
}
