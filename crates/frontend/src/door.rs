//! Where clients come in: a listener, and TLS on it where that is wanted.

use config::ServerTls;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use types::{Error, Result};

/// A listener, and how its connections begin.
pub struct Door {
    pub(crate) listener: TcpListener,
    pub(crate) tls: Option<TlsAcceptor>,
}

impl Door {
    /// Speaks TLS on `listener` if there is a certificate. Errors name the flag of a file that
    /// cannot be used.
    pub fn new(listener: TcpListener, tls: Option<&ServerTls>) -> Result<Self> {
        Ok(Self { listener, tls: tls.map(acceptor).transpose()? })
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }
}

/// Whether a certificate and its key can be used. Errors: as of [`Door::new`].
pub fn check_tls(tls: &ServerTls) -> Result<()> {
    acceptor(tls).map(drop)
}

fn acceptor(tls: &ServerTls) -> Result<TlsAcceptor> {
    let certificates = CertificateDer::pem_slice_iter(tls.certificates.bytes());
    let certificates: std::result::Result<Vec<_>, _> = certificates.collect();
    let certificates = certificates.ok().filter(|found| !found.is_empty());
    let certificates = certificates.ok_or_else(|| unusable("--tls-cert-path", "certificates"))?;
    let key = PrivateKeyDer::from_pem_slice(tls.key.bytes())
        .map_err(|_| unusable("--tls-key-path", "a private key"))?;
    let versions = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::internal(format!("TLS: {error}")))?;
    let mut config =
        versions.with_no_client_auth().with_single_cert(certificates, key).map_err(|error| {
            Error::invalid(format!("--tls-cert-path and --tls-key-path do not fit: {error}"))
        })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn unusable(flag: &str, expected: &str) -> Error {
    Error::invalid(format!("{flag}: expected {expected} in PEM"))
}
