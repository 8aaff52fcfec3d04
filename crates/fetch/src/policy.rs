//! From where media may come, how large they may be, and how long it may take.

use crate::address::{is_metadata, is_public, unwrapped};
use crate::network::Network;
use std::net::IpAddr;
use std::time::Duration;

/// What may be fetched.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// The only hosts, in lower case; `*.example.com` stands for all below `example.com`. Empty
    /// means any.
    pub domains: Vec<String>,
    /// Networks that may be reached although they are not the public internet's. Where a cloud
    /// tells a machine its secrets is reached only if its very address is here.
    pub networks: Vec<Network>,
    /// Most bytes of one medium.
    pub n_bytes_max: usize,
    /// How long each part may take.
    pub deadlines: Deadlines,
}

/// How long each part of a fetch may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// To resolve a name, connect and agree on TLS, once for each hop.
    pub connect: Duration,
    /// From the request to the first byte of the answer, and between any two pieces of it.
    pub read: Duration,
    /// For everything, redirects and waiting for a turn too.
    pub total: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            read: Duration::from_secs(10),
            total: Duration::from_secs(60),
        }
    }
}

impl Default for Policy {
    /// Any host of the public internet, up to 50 MiB.
    fn default() -> Self {
        Self {
            domains: Vec::new(),
            networks: Vec::new(),
            n_bytes_max: 50 << 20,
            deadlines: Deadlines::default(),
        }
    }
}

impl Policy {
    /// Whether media may come from `host`, as a URL names it.
    pub(crate) fn permits_host(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host);
        let is_it = |domain: &String| match domain.strip_prefix('*') {
            // The dot stays in the pattern, so that `badexample.com` is not below `example.com`.
            Some(below) => host.len() > below.len() && host.ends_with(below),
            None => host == domain,
        };
        self.domains.is_empty() || self.domains.iter().any(is_it)
    }

    /// Whether a connection may go to `address`.
    pub(crate) fn permits_address(&self, address: IpAddr) -> bool {
        // A mapped address is the IPv4 address itself; the others lead there by way of somebody
        // else, so that nobody meant them who listed it.
        let itself = address.to_canonical();
        let real = unwrapped(address);
        let mut named = self.networks.iter().filter(|network| network.contains(itself));
        match is_metadata(real) {
            true => named.any(Network::is_one_address),
            false => is_public(real) || named.next().is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(domains: &[&str], networks: &[(&str, u32)]) -> Policy {
        let network =
            |&(base, n_bits): &(&str, u32)| Network::new(base.parse().unwrap(), n_bits).unwrap();
        Policy {
            domains: domains.iter().map(|&domain| domain.to_owned()).collect(),
            networks: networks.iter().map(network).collect(),
            ..Policy::default()
        }
    }

    #[test]
    fn hosts_are_listed_or_below_one_that_is() {
        let check = |domains: &[&str], host: &str, expected: bool| {
            assert_eq!(policy(domains, &[]).permits_host(host), expected, "{host} of {domains:?}");
        };
        check(&[], "anything.example", true);
        check(&["a.example"], "a.example", true);
        check(&["a.example"], "a.example.", true);
        check(&["a.example"], "b.a.example", false);
        check(&["a.example"], "a.example.evil", false);
        check(&["*.a.example"], "b.a.example", true);
        check(&["*.a.example"], "c.b.a.example", true);
        check(&["*.a.example"], "a.example", false);
        check(&["*.a.example"], "ba.example", false);
        check(&["*.a.example"], ".a.example", false);
        check(&["x.example", "a.example"], "a.example", true);
    }

    const REFUSED: &str = "\
        0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 100.127.255.255 127.0.0.1 127.255.255.254 169.254.0.1 \
        169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.8 192.0.2.1 192.88.99.1 192.168.1.1 \
        198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255 \
        168.63.129.16 100.100.100.200 :: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 \
        ::ffff:169.254.169.254 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::808:808 2002:7f00:1:: \
        2002:a00:1::1 2002:a9fe:a9fe:: 2001::1 2001:db8::1 3fff::1 fc00::1 fd00:ec2::254 \
        fd20:ce::254 fe80::1 fec0::1 ff02::1 100::1 5f00::1 4000::1";

    const PERMITTED: &str = "\
        1.1.1.1 8.8.8.8 100.63.255.255 100.128.0.0 172.15.255.255 172.32.0.0 169.253.255.255 \
        192.0.1.1 198.17.255.255 223.255.255.255 2606:4700::1111 2a00::1 ::ffff:8.8.8.8 \
        64:ff9b::808:808 2002:808:808::1";

    #[test]
    fn only_the_public_internet_is_reached() {
        let policy = policy(&[], &[]);
        let check = |address: &str| policy.permits_address(address.parse().unwrap());
        for address in REFUSED.split_whitespace() {
            assert!(!check(address), "{address}");
        }
        for address in PERMITTED.split_whitespace() {
            assert!(check(address), "{address}");
        }
    }

    #[test]
    fn listed_networks_are_reached_as_well() {
        let check = |network: (&str, u32), address: &str, expected: bool| {
            let found = policy(&[], &[network]).permits_address(address.parse().unwrap());
            assert_eq!(found, expected, "{address} with {network:?}");
        };
        check(("10.1.0.0", 16), "10.1.2.3", true);
        check(("10.1.0.0", 16), "10.2.2.3", false);
        check(("10.1.0.0", 16), "::ffff:10.1.2.3", true);
        check(("10.1.0.0", 16), "1.1.1.1", true);
        check(("fd00::", 8), "fd01::1", true);
        check(("0.0.0.0", 0), "127.0.0.1", true);
        check(("0.0.0.0", 0), "169.254.169.254", false);
        check(("169.254.0.0", 16), "169.254.169.254", false);
        check(("169.254.0.0", 16), "169.254.1.1", true);
        check(("169.254.169.254", 32), "169.254.169.254", true);
        check(("169.254.169.254", 32), "::ffff:169.254.169.254", true);
        check(("169.254.169.254", 32), "169.254.169.253", false);
        check(("127.0.0.1", 32), "64:ff9b::7f00:1", false);
        check(("127.0.0.1", 32), "2002:7f00:1::", false);
        check(("64:ff9b::", 96), "64:ff9b::7f00:1", true);
        check(("64:ff9b::", 96), "64:ff9b::a9fe:a9fe", false);
        check(("::", 0), "::ffff:169.254.169.254", false);
    }
}
