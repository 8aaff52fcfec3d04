//! A network: an IP address, and how many of its leading bits count.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// All addresses whose first bits are those of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    base: u128,
    mask: u128,
    is_v4: bool,
}

/// Bits of an IPv6 address that an IPv4 address leaves free.
const V4_FREE_BITS: u32 = 96;

impl Network {
    /// The network of the first `n_bits` of `address`; `None` if it has not as many.
    pub fn new(address: IpAddr, n_bits: u32) -> Option<Self> {
        match address {
            IpAddr::V4(v4) => (n_bits <= Ipv4Addr::BITS).then(|| Self::v4(v4, n_bits)),
            IpAddr::V6(v6) => (n_bits <= Ipv6Addr::BITS).then(|| Self::v6(v6, n_bits)),
        }
    }

    pub(crate) const fn v4(address: Ipv4Addr, n_bits: u32) -> Self {
        // The bits beyond 32 are the same in all IPv4 addresses, so they may count.
        let mask = mask(V4_FREE_BITS + n_bits);
        Self { base: address.to_bits() as u128 & mask, mask, is_v4: true }
    }

    pub(crate) const fn v6(address: Ipv6Addr, n_bits: u32) -> Self {
        let mask = mask(n_bits);
        Self { base: address.to_bits() & mask, mask, is_v4: false }
    }

    /// Whether `address` lies in it. IPv4 and IPv6 are never in each other's networks.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let (bits, is_v4) = match address {
            IpAddr::V4(v4) => (u128::from(v4.to_bits()), true),
            IpAddr::V6(v6) => (v6.to_bits(), false),
        };
        self.is_v4 == is_v4 && bits & self.mask == self.base
    }

    /// Whether one address is all there is in it.
    pub(crate) fn is_one_address(&self) -> bool {
        self.mask == u128::MAX
    }
}

const fn mask(n_bits: u32) -> u128 {
    // Shifting by all 128 bits is not defined.
    if n_bits == 0 { 0 } else { u128::MAX << (u128::BITS - n_bits) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bits_count() {
        let check = |base: &str, n_bits, address: &str, expected: bool| {
            let network = Network::new(base.parse().unwrap(), n_bits).unwrap();
            let found = network.contains(address.parse().unwrap());
            assert_eq!(found, expected, "{address} in {base}/{n_bits}");
        };
        check("10.1.2.3", 8, "10.255.0.0", true);
        check("10.1.2.3", 8, "11.0.0.0", false);
        check("10.1.2.3", 32, "10.1.2.3", true);
        check("10.1.2.3", 32, "10.1.2.2", false);
        check("0.0.0.0", 0, "255.255.255.255", true);
        check("0.0.0.0", 0, "::1", false);
        check("::", 0, "ff02::1", true);
        check("::", 0, "1.1.1.1", false);
        check("fd00::", 8, "fdff::1", true);
        check("fd00::", 8, "fc00::1", false);
        assert_eq!(Network::new("10.0.0.0".parse().unwrap(), 33), None);
        assert_eq!(Network::new("::".parse().unwrap(), 129), None);
    }
}
