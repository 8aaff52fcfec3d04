//! Addresses of memory over TCP: `tcp://host:port/<table>`, where the table is 32 hexadecimal
//! digits that choose one of the owner's lease tables.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use types::{Error, Result};

/// How addresses of this transport begin.
pub(crate) const SCHEME: &str = "tcp://";

/// `host:port` and table of the first address that is ours.
pub(crate) fn first(transports: &[String]) -> Result<(&str, u128)> {
    let found = transports.iter().find_map(|address| parse(address));
    found.ok_or_else(|| crate::lost("it has no address for TCP"))
}

fn parse(address: &str) -> Option<(&str, u128)> {
    let (peer, table) = address.strip_prefix(SCHEME)?.rsplit_once('/')?;
    let is_table = table.len() == 32 && !table.starts_with('+');
    let table = u128::from_str_radix(table, 16).ok().filter(|_| is_table)?;
    Some((peer, table))
}

/// The address of a table that is served at `peer`, a `host:port`.
pub(crate) fn of_table(peer: &str, table: u128) -> String {
    format!("{SCHEME}{peer}/{table:032x}")
}

/// `host:port` for peers, when the listener is bound to `bound`.
pub(crate) fn of_listener(advertise: Option<&str>, bound: SocketAddr) -> Result<String> {
    let port = bound.port();
    let Some(host) = advertise else {
        let is_any = bound.ip().is_unspecified();
        let ip = if is_any { way_out() } else { bound.ip() };
        return Ok(SocketAddr::new(ip, port).to_string());
    };
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, port).to_string());
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if host.is_empty() || !host.chars().all(is_name) {
        let message = format!("\"{host}\" is neither a host name nor an address (and has no port)");
        return Err(Error::invalid(message));
    }
    Ok(format!("{host}:{port}"))
}

/// The address that this machine has on its way to other networks; 127.0.0.1 if there is none.
fn way_out() -> IpAddr {
    let (any_v4, any_v6) = (IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into());
    // Addresses kept for documentation: connecting a UDP socket sends nothing, it only asks the
    // routing table.
    let toward_v4 = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 9));
    let toward_v6 = SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9));
    let ask = |(from, toward): (IpAddr, SocketAddr)| {
        let socket = UdpSocket::bind((from, 0)).ok()?;
        socket.connect(toward).ok()?;
        let ip = socket.local_addr().ok()?.ip();
        (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
    };
    let found = [(any_v4, toward_v4), (any_v6, toward_v6)].into_iter().find_map(ask);
    found.unwrap_or(IpAddr::from(Ipv4Addr::LOCALHOST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_written() {
        for peer in ["10.0.0.1:7", "[::1]:65535", "worker-3.local:1"] {
            for table in [0, 1, u128::MAX] {
                assert_eq!(parse(&of_table(peer, table)), Some((peer, table)));
            }
        }
        let digits = "0123456789abcdef0123456789abcdef";
        for bad in [
            String::new(),
            format!("mem://{digits}"),
            format!("tcp://{digits}"),
            "tcp://host:1/".into(),
            format!("tcp://host:1/{}", &digits[1..]),
            format!("tcp://host:1/{digits}0"),
            format!("tcp://host:1/+{}", &digits[1..]),
            format!("tcp://host:1/{}g", &digits[1..]),
        ] {
            assert_eq!(parse(&bad), None, "{bad}");
        }
    }

    #[test]
    fn the_host_for_peers_is_given_or_found() {
        let check = |advertise, bound: &str, expected| {
            let found = of_listener(advertise, bound.parse().unwrap());
            assert_eq!(found.as_deref().ok(), expected, "{advertise:?} {bound}");
        };
        check(None, "127.0.0.1:8", Some("127.0.0.1:8"));
        check(None, "[::1]:8", Some("[::1]:8"));
        check(Some("node-7.cluster"), "0.0.0.0:8", Some("node-7.cluster:8"));
        check(Some("::1"), "0.0.0.0:8", Some("[::1]:8"));
        check(Some("10.1.2.3"), "0.0.0.0:8", Some("10.1.2.3:8"));
        check(Some("host:9"), "0.0.0.0:8", None);
        check(Some("a/b"), "0.0.0.0:8", None);
        check(Some(""), "0.0.0.0:8", None);
        let found = of_listener(None, "0.0.0.0:8".parse().unwrap()).unwrap();
        let found: SocketAddr = found.parse().unwrap();
        assert!(!found.ip().is_unspecified(), "{found}");
    }
}
