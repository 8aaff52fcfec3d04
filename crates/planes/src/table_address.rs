//! Addresses of memory that peers read over a network: `<scheme>://host:port/<table>`. Host and
//! port are where the owner's transport listens; the table is 32 hexadecimal digits that choose
//! one of the owner's lease tables.
//!
//! Must not know which transports there are: each brings its scheme (`tcp://`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use types::{Error, Result};

/// Hexadecimal digits of a table.
const N_TABLE_DIGITS: usize = 32;

/// `host:port` and table of an address of this scheme.
pub fn parse<'a>(scheme: &str, address: &'a str) -> Option<(&'a str, u128)> {
    let (peer, table) = address.strip_prefix(scheme)?.rsplit_once('/')?;
    let is_digit = |digit: u8| digit.is_ascii_hexdigit();
    let is_table = table.len() == N_TABLE_DIGITS && table.bytes().all(is_digit);
    is_table.then_some((peer, u128::from_str_radix(table, 16).ok()?))
}

/// The address of a table that is served at `peer`, a `host:port`.
pub fn of_table(scheme: &str, peer: &str, table: u128) -> String {
    format!("{scheme}{peer}/{table:0N_TABLE_DIGITS$x}")
}

/// `host:port` for peers of a listener that is bound to `bound`: the advertised host, a name or an
/// address; without one the address listened on; where that is any, the one of the way out of this
/// machine, and the loopback's if there is none.
///
/// Errors: what is advertised is neither a name nor an address (`InvalidInput`).
pub fn of_listener(advertise: Option<&str>, bound: SocketAddr) -> Result<String> {
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

/// The address that this machine has on its way to other networks. Who listens on any address of
/// the sixth version listens on those of the fourth too.
fn way_out(any: IpAddr) -> IpAddr {
    // Addresses kept for documentation: connecting a UDP socket sends nothing, it only asks the
    // routing table.
    let toward_v4 = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    let toward_v6 = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
    let any_v4 = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    match any {
        IpAddr::V4(_) => asked(any, toward_v4).unwrap_or(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(_) => asked(any, toward_v6)
            .or_else(|| asked(any_v4, toward_v4))
            .unwrap_or(Ipv6Addr::LOCALHOST.into()),
    }
}

/// The address that this machine has on its way to `server`; none where that is this machine, or
/// there is no way.
pub fn way_to(server: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match server {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    asked(any, server)
}

fn asked(from: IpAddr, toward: IpAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind((from, 0)).ok()?;
    socket.connect((toward, 9)).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEME: &str = "tcp://";

    #[test]
    fn addresses_are_read_as_they_are_written() {
        let address = of_table(SCHEME, "node-1:77", 0x0123_4567_89ab_cdef);
        assert_eq!(address, "tcp://node-1:77/00000000000000000123456789abcdef");
        for peer in ["10.0.0.1:7", "[::1]:65535", "worker-3.local:1"] {
            for table in [0, 1, u128::MAX] {
                let address = of_table(SCHEME, peer, table);
                assert_eq!(parse(SCHEME, &address), Some((peer, table)));
                assert_eq!(parse("ucx://", &address), None);
            }
        }
    }

    #[test]
    fn what_is_no_address_is_none() {
        let digits = "0123456789abcdef0123456789abcdef";
        for bad in [
            String::new(),
            format!("mem://{digits}"),
            format!("tcp://{digits}"),
            "tcp://host:1".into(),
            "tcp://host:1/".into(),
            format!("tcp://host:1/{}", &digits[1..]),
            format!("tcp://host:1/{digits}0"),
            format!("tcp://host:1/+{}", &digits[1..]),
            format!("tcp://host:1/{}g", &digits[1..]),
        ] {
            assert_eq!(parse(SCHEME, &bad), None, "{bad}");
        }
    }

    #[test]
    fn peers_are_told_a_host_they_can_reach() {
        let check = |advertise, bound: &str, expected| {
            let told = of_listener(advertise, bound.parse().unwrap());
            assert_eq!(told.as_deref().ok(), expected, "{advertise:?} {bound}");
        };
        check(None, "127.0.0.1:8", Some("127.0.0.1:8"));
        check(None, "[::1]:8", Some("[::1]:8"));
        check(Some("node-7.cluster"), "0.0.0.0:8", Some("node-7.cluster:8"));
        check(Some("::1"), "0.0.0.0:8", Some("[::1]:8"));
        check(Some("10.1.2.3"), "0.0.0.0:8", Some("10.1.2.3:8"));
        for wrong in ["host:9", "a/b", ""] {
            check(Some(wrong), "0.0.0.0:8", None);
        }
        for any in ["0.0.0.0:8", "[::]:8"] {
            let told = of_listener(None, any.parse().unwrap()).unwrap();
            let told: SocketAddr = told.parse().unwrap();
            assert!(!told.ip().is_unspecified(), "{told}");
            assert!(told.is_ipv4() || any.starts_with('['), "{told} listens to the fourth only");
        }
    }
}
