//! TLS towards origins: who may sign their certificates, and the handshake.

use crate::failure::origin;
use rustls_native_certs::load_native_certs;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use types::{Error, Result};
use url::Host;

/// The authorities that this system trusts.
///
/// They are what `SSL_CERT_FILE` names, or else the system's own.
pub(crate) fn system_roots() -> RootCertStore {
    let found = load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        tracing::warn!("no https:// media can be fetched: this system has no certificates of CAs");
    }
    roots
}

/// A client that trusts `roots`. Errors: a fault of ours.
pub(crate) fn connector(roots: RootCertStore) -> Result<TlsConnector> {
    let provider = Arc::new(ring::default_provider());
    let versions =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let versions = versions.map_err(|error| Error::internal(format!("TLS: {error}")))?;
    let config = versions.with_root_certificates(roots).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Agrees on TLS with the machine behind `stream`, which must prove to be `host`.
pub(crate) async fn encrypt(
    connector: &TlsConnector,
    host: Host<&str>,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>> {
    let name = match host {
        Host::Domain(name) => ServerName::try_from(name.to_owned()).map_err(|_| untrusted())?,
        Host::Ipv4(address) => ServerName::from(std::net::IpAddr::V4(address)),
        Host::Ipv6(address) => ServerName::from(std::net::IpAddr::V6(address)),
    };
    connector.connect(name, stream).await.map_err(|_| untrusted())
}

fn untrusted() -> Error {
    origin("its origin does not speak TLS with a certificate that is trusted here")
}
