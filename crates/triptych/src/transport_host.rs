//! Where a process listens for those who read its memory, and the host by which they find it.

use config::cluster::ClusterConfig;
use planes::table_address;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::net::lookup_host;
use tokio::time::timeout;

/// How long to wait for the address of one of the cluster's servers.
const LOOKUP_MAX: Duration = Duration::from_secs(2);

/// See the file's description.
pub(crate) struct TransportHost {
    /// Where to listen; port 0 is any free one.
    pub(crate) listen: SocketAddr,
    /// The host by which peers find us. `None` where it is the address listened on, or this
    /// machine's own.
    pub(crate) advertise: Option<String>,
}

impl TransportHost {
    /// What the flags ask for. Without a word from them peers find us by our address on
    /// the way to etcd or NATS, since whoever belongs to the cluster is on such a way too.
    pub(crate) async fn of(cluster: &ClusterConfig) -> Self {
        let host = Self::asked_for(cluster.transport_host.as_deref());
        if host.advertise.is_some() || !host.listen.ip().is_unspecified() {
            return host;
        }
        let advertise = on_the_way_to(&servers(cluster), host.listen.ip()).await;
        Self { advertise: advertise.map(|ip| ip.to_string()), ..host }
    }

    fn asked_for(host: Option<&str>) -> Self {
        let ip = host.map(|host| host.parse::<IpAddr>().ok());
        let is_name = ip == Some(None);
        let ip = ip.flatten().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let advertise = host.filter(|_| is_name || !ip.is_unspecified()).map(str::to_owned);
        Self { listen: SocketAddr::new(ip, 0), advertise }
    }
}

/// `host:port` of the cluster's servers.
fn servers(cluster: &ClusterConfig) -> Vec<String> {
    let etcd = cluster.etcd.iter().flat_map(|etcd| etcd.endpoints.iter().cloned());
    let nats = cluster.nats.iter().flat_map(|nats| nats.servers.iter().map(|url| url.shown()));
    let host = |url: String| Some(url.split_once("://")?.1.split('/').next()?.to_owned());
    etcd.chain(nats).filter_map(host).collect()
}

/// This machine's address on the way to the first of the servers whose name leads anywhere; none
/// where that is this machine.
async fn on_the_way_to(servers: &[String], listen: IpAddr) -> Option<IpAddr> {
    for server in servers {
        let Ok(Ok(mut found)) = timeout(LOOKUP_MAX, lookup_host(server)).await else { continue };
        let may_be_used = |address: &SocketAddr| listen.is_ipv6() || address.is_ipv4();
        if let Some(address) = found.find(may_be_used) {
            return table_address::way_to(address.ip());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_listened_on_and_advertised() {
        let check = |host, expected: (&str, Option<&str>)| {
            let TransportHost { listen, advertise } = TransportHost::asked_for(host);
            assert_eq!((listen.to_string().as_str(), advertise.as_deref()), expected, "{host:?}");
        };
        check(None, ("0.0.0.0:0", None));
        check(Some("0.0.0.0"), ("0.0.0.0:0", None));
        check(Some("127.0.0.1"), ("127.0.0.1:0", Some("127.0.0.1")));
        check(Some("::1"), ("[::1]:0", Some("::1")));
        check(Some("node-3"), ("0.0.0.0:0", Some("node-3")));
    }

    #[tokio::test]
    async fn servers_on_this_machine_tell_nothing_of_its_networks() {
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let servers = ["no-such-host.invalid:1".to_owned(), "localhost:2379".to_owned()];
        assert_eq!(on_the_way_to(&servers, any).await, None);
        assert_eq!(on_the_way_to(&[], any).await, None);
    }
}
