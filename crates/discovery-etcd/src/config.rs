//! How to reach etcd, and under which prefix instances live.
//!
//! Must not know when a connection is made.

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};
use std::fmt;
use std::time::Duration;
use types::{Error, Result};

/// Longest wait for a TCP connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Longest wait for the answer to one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// Time between two HTTP/2 pings. etcd closes connections that ping more often than each 5 s, so
/// these only clear away dead connections; registrations and watches notice much earlier.
const PING_INTERVAL: Duration = Duration::from_secs(6);

/// Longest wait for the answer to an HTTP/2 ping.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// Where etcd is and who we are to it.
#[derive(Clone)]
pub struct EtcdConfig {
    /// The members' client URLs, `http://host:2379` or `https://…`; a bare `host:port` takes the
    /// scheme from `tls`. They are tried in turn, the first one first.
    pub endpoints: Vec<String>,
    /// Instances of other namespaces are not seen. Letters, digits, `-`, `_` and `.`.
    pub namespace: String,
    /// User name and password. The user needs to read and write `/triptych/v1/<namespace>/`.
    pub user: Option<(String, String)>,
    /// How to check etcd's certificate and show ours; `None` speaks plain text.
    pub tls: Option<Tls>,
    /// Fingerprint of the cluster's key. Instances that say another are not seen; `None` says
    /// nothing and sees all.
    pub cluster_key: Option<String>,
    /// How long an unreachable etcd is waited for at start.
    pub start_deadline: Duration,
}

/// TLS to etcd.
#[derive(Clone, Default)]
pub struct Tls {
    /// PEM of the certificate authorities to trust; `None` trusts the system's.
    pub ca: Option<Vec<u8>>,
    /// PEM of our certificate and of its key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The name that etcd's certificate must have, where it is not the endpoint's host.
    pub domain: Option<String>,
}

impl Default for EtcdConfig {
    fn default() -> Self {
        Self {
            endpoints: vec!["http://127.0.0.1:2379".into()],
            namespace: "default".into(),
            user: None,
            tls: None,
            cluster_key: None,
            start_deadline: Duration::from_secs(30),
        }
    }
}

impl fmt::Debug for EtcdConfig {
    /// Without the secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("EtcdConfig");
        shown.field("endpoints", &self.endpoints).field("namespace", &self.namespace);
        shown.field("user", &self.user.as_ref().map(|(name, _)| name));
        shown.field("has_tls", &self.tls.is_some()).field("start_deadline", &self.start_deadline);
        shown.finish()
    }
}

impl EtcdConfig {
    /// The same, if it can work. Errors: `InvalidInput`.
    pub(crate) fn checked(self) -> Result<Self> {
        if self.endpoints.is_empty() {
            return Err(Error::invalid("no endpoint of etcd is given"));
        }
        let is_encrypted = |url: &String| url.starts_with("https://");
        if self.tls.is_none() && self.endpoints.iter().any(is_encrypted) {
            return Err(Error::invalid("an endpoint of etcd is https://, but TLS is not set up"));
        }
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.namespace.is_empty() || !self.namespace.chars().all(is_plain) {
            let reason = "a namespace is made of letters, digits, `-`, `_` and `.`";
            return Err(Error::invalid(format!("`{}` is no namespace: {reason}", self.namespace)));
        }
        Ok(self)
    }

    /// What the keys of all instances of the namespace begin with.
    pub(crate) fn prefix(&self) -> String {
        format!("/triptych/v1/{}/instances/", self.namespace)
    }

    pub(crate) fn connect_options(&self) -> ConnectOptions {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_timeout(REQUEST_TIMEOUT)
            .with_keep_alive(PING_INTERVAL, PING_TIMEOUT)
            // A member cut off from the others must say so instead of falling silent.
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some((name, password)) = &self.user {
            options = options.with_user(name, password);
        }
        if let Some(tls) = &self.tls {
            options = options.with_tls(tls.options());
        }
        options
    }
}

impl Tls {
    fn options(&self) -> TlsOptions {
        let mut options = TlsOptions::new().timeout(REQUEST_TIMEOUT);
        options = match &self.ca {
            Some(pem) => options.ca_certificate(Certificate::from_pem(pem)),
            None => options.with_native_roots(),
        };
        if let Some((certificate, key)) = &self.identity {
            options = options.identity(Identity::from_pem(certificate, key));
        }
        if let Some(domain) = &self.domain {
            options = options.domain_name(domain);
        }
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused() {
        let namespace = |name: &str| EtcdConfig { namespace: name.into(), ..Default::default() };
        let (encrypted, tls) = (vec!["https://a:2379".to_owned()], Some(Tls::default()));
        for (config, is_right) in [
            (EtcdConfig::default(), true),
            (namespace("team-a_1.x"), true),
            (namespace(""), false),
            (namespace("a/instances"), false),
            (EtcdConfig { endpoints: Vec::new(), ..Default::default() }, false),
            (EtcdConfig { endpoints: encrypted.clone(), ..Default::default() }, false),
            (EtcdConfig { endpoints: encrypted, tls, ..Default::default() }, true),
        ] {
            assert_eq!(config.clone().checked().is_ok(), is_right, "{config:?}");
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        let user = Some(("root".into(), "sesame".into()));
        let shown = format!("{:?}", EtcdConfig { user, ..Default::default() });
        assert!(shown.contains("root") && !shown.contains("sesame"), "{shown}");
    }
}
