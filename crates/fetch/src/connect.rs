//! From a host to a connection: the name is resolved once, and the connection goes to an address
//! that the policy permits.

use crate::failure::{forbidden, unreachable};
use crate::policy::Policy;
use crate::target::Target;
use crate::tls::{connector, encrypt, system_roots};
use futures::future::BoxFuture;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use types::{Error, Result};
use url::Host;

/// Addresses of one host that are tried, one after the other.
const N_ADDRESSES_MAX: usize = 4;

/// From a name to its addresses.
pub(crate) type Resolver =
    Arc<dyn Fn(String) -> BoxFuture<'static, std::io::Result<Vec<IpAddr>>> + Send + Sync>;

/// A connection of either kind.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Makes connections.
pub(crate) struct Connector {
    pub(crate) resolver: Resolver,
    /// Made when it is first needed: reading the system's certificates takes a while.
    pub(crate) tls: OnceCell<TlsConnector>,
}

impl Connector {
    /// With the system's resolver, and the authorities it trusts.
    pub(crate) fn of_system() -> Self {
        let resolver = |name: String| -> BoxFuture<'static, _> {
            Box::pin(async move {
                // The port is of no meaning to the resolver, but part of its interface.
                let found = lookup_host((name, 0)).await?;
                Ok(found.map(|address| address.ip()).collect())
            })
        };
        Self { resolver: Arc::new(resolver), tls: OnceCell::new() }
    }

    /// Connects to the host of `target`. Errors: none of its addresses is permitted, or none of
    /// those answers.
    pub(crate) async fn connect(
        &self,
        target: &Target,
        policy: &Policy,
    ) -> Result<Box<dyn Stream>> {
        let found = self.resolve(target).await?;
        let is_permitted = |address: &IpAddr| policy.permits_address(*address);
        let permitted: Vec<IpAddr> =
            found.into_iter().filter(is_permitted).take(N_ADDRESSES_MAX).collect();
        if permitted.is_empty() {
            return Err(forbidden());
        }
        let patience = policy.deadlines.connect / permitted.len() as u32;
        for address in permitted {
            let address = SocketAddr::new(address, target.port());
            if let Ok(Ok(stream)) = timeout(patience, TcpStream::connect(address)).await {
                return self.dress(target, stream).await;
            }
        }
        Err(unreachable())
    }

    async fn resolve(&self, target: &Target) -> Result<Vec<IpAddr>> {
        match target.host() {
            Host::Ipv4(address) => Ok(vec![address.into()]),
            Host::Ipv6(address) => Ok(vec![address.into()]),
            Host::Domain(name) => {
                let found = (self.resolver)(name.to_owned()).await.map_err(|_| unreachable())?;
                if found.is_empty() { Err(unreachable()) } else { Ok(found) }
            }
        }
    }

    async fn dress(&self, target: &Target, stream: TcpStream) -> Result<Box<dyn Stream>> {
        if !target.is_https() {
            return Ok(Box::new(stream));
        }
        let make = || async {
            let made = tokio::task::spawn_blocking(|| connector(system_roots())).await;
            made.map_err(|_| Error::internal("reading the system's certificates broke off"))?
        };
        let tls = self.tls.get_or_try_init(make).await?;
        Ok(Box::new(encrypt(tls, target.host(), stream).await?))
    }
}
