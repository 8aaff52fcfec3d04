//! Addresses of memory over UCX: `ucx://host:port/<table>`. Host and port are those of the
//! handshake; the table is 32 hexadecimal digits that choose one of the owner's lease tables.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use types::{Error, Result};

/// How addresses of this transport begin.
pub(crate) const SCHEME: &str = "ucx://";

/// `host:port` and table of an address of ours.
pub(crate) fn parse(address: &str) -> Option<(&str, u128)> {
    let (peer, table) = address.strip_prefix(SCHEME)?.rsplit_once('/')?;
    let is_table = table.len() == 32 && table.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_table.then_some((peer, u128::from_str_radix(table, 16).ok()?))
}

/// The address of a table that is served at `peer`, a `host:port`.
pub(crate) fn of_table(peer: &str, table: u128) -> String {
    format!("{SCHEME}{peer}/{table:032x}")
}

/// `host:port` for peers, when the listener is bound to `bound`.
///
/// Errors: what is advertised is neither a name nor an address (`InvalidInput`).
pub(crate) fn of_listener(advertise: Option<&str>, bound: SocketAddr) -> Result<String> {
    let of_ip = |ip| SocketAddr::new(ip, bound.port()).to_string();
    match advertise {
        None if bound.ip().is_unspecified() => Ok(of_ip(way_out(bound.ip()))),
        None => Ok(of_ip(bound.ip())),
        Some(host) => match host.parse::<IpAddr>() {
            Ok(ip) => Ok(of_ip(ip)),
            Err(_) if is_name(host) => Ok(format!("{host}:{}", bound.port())),
            Err(_) => Err(Error::invalid(format!(
                "\"{host}\" is neither a host name nor an address (and has no port)"
            ))),
        },
    }
}

fn is_name(host: &str) -> bool {
    let may_be_in_one = |c: u8| c.is_ascii_alphanumeric() || b"-._".contains(&c);
    !host.is_empty() && host.bytes().all(may_be_in_one)
}

/// The address that this machine has on its way to other networks; the loopback's if it has none.
fn way_out(any: IpAddr) -> IpAddr {
    // Addresses kept for documentation: connecting a UDP socket sends nothing, it only asks the
    // routing table.
    let (toward, loopback): (IpAddr, IpAddr) = if any.is_ipv4() {
        (Ipv4Addr::new(192, 0, 2, 1).into(), Ipv4Addr::LOCALHOST.into())
    } else {
        (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(), Ipv6Addr::LOCALHOST.into())
    };
    let asked = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((toward, 9))?;
        socket.local_addr()
    });
    asked.map_or(loopback, |ours| ours.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_written() {
        let table = 0x0123_4567_89ab_cdef;
        let address = of_table("node-1:77", table);
        assert_eq!(address, "ucx://node-1:77/00000000000000000123456789abcdef");
        assert_eq!(parse(&address), Some(("node-1:77", table)));
        assert_eq!(parse(&of_table("[::1]:7", u128::MAX)), Some(("[::1]:7", u128::MAX)));
        let digits = "0".repeat(32);
        for wrong in [
            format!("tcp://a:1/{digits}"),
            "ucx://a:1".into(),
            "ucx://a:1/77".into(),
            format!("ucx://a:1/{}", digits.replacen('0', "+", 1)),
            format!("ucx://a:1/0{digits}"),
        ] {
            assert_eq!(parse(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn peers_are_told_a_host_they_can_reach() {
        let check = |advertise, bound: &str, expected| {
            let told = of_listener(advertise, bound.parse().unwrap());
            assert_eq!(told.as_deref().ok(), expected, "{advertise:?} {bound}");
        };
        check(None, "127.0.0.1:7", Some("127.0.0.1:7"));
        check(None, "[::1]:7", Some("[::1]:7"));
        check(Some("node-7.cluster"), "0.0.0.0:7", Some("node-7.cluster:7"));
        check(Some("::1"), "0.0.0.0:7", Some("[::1]:7"));
        for wrong in ["node:7", "a/b", ""] {
            check(Some(wrong), "0.0.0.0:7", None);
        }
        let told = of_listener(None, "0.0.0.0:7".parse().unwrap()).unwrap();
        assert!(!told.parse::<SocketAddr>().unwrap().ip().is_unspecified(), "{told}");
    }
}
