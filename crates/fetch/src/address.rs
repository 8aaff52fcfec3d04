//! Which IP addresses belong to the public internet, and which are machines of our own side.

use crate::network::Network;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IPv4 networks that are not the public internet's (IANA's register of special purposes).
const SPECIAL_V4: &[Network] = &[
    // "This network"; 0.0.0.0 is this very machine to most systems.
    v4([0, 0, 0, 0], 8),
    // Private.
    v4([10, 0, 0, 0], 8),
    v4([172, 16, 0, 0], 12),
    v4([192, 168, 0, 0], 16),
    // Carrier-grade NAT.
    v4([100, 64, 0, 0], 10),
    // Loopback.
    v4([127, 0, 0, 0], 8),
    // Link-local.
    v4([169, 254, 0, 0], 16),
    // Protocol assignments, documentation, the retired 6to4 relay, benchmarks.
    v4([192, 0, 0, 0], 24),
    v4([192, 0, 2, 0], 24),
    v4([192, 88, 99, 0], 24),
    v4([198, 18, 0, 0], 15),
    v4([198, 51, 100, 0], 24),
    v4([203, 0, 113, 0], 24),
    // Multicast, and all that is reserved, broadcast among it.
    v4([224, 0, 0, 0], 4),
    v4([240, 0, 0, 0], 4),
];

/// The only IPv6 addresses that are given out for the public internet.
const GLOBAL_V6: Network = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);

/// IPv6 networks among those that are not the public internet's.
const SPECIAL_V6: &[Network] = &[
    // Protocol assignments, Teredo among them.
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23),
    // Documentation.
    v6([0x2001, 0xDB8, 0, 0, 0, 0, 0, 0], 32),
    v6([0x3FFF, 0, 0, 0, 0, 0, 0, 0], 20),
];

/// Where clouds tell a machine its secrets. One of them has a public address.
const METADATA: &[IpAddr] = &[
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xFD00, 0xEC2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xFD20, 0xCE, 0, 0, 0, 0, 0, 0x254)),
];

/// IPv6 networks whose addresses have an IPv4 address in them, and how far right it stands, in
/// bits.
const CARRIERS: &[(Network, u32)] = &[
    // IPv4-mapped, and the older IPv4-compatible.
    (v6([0, 0, 0, 0, 0, 0xFFFF, 0, 0], 96), 0),
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 96), 0),
    // NAT64.
    (v6([0x64, 0xFF9B, 0, 0, 0, 0, 0, 0], 96), 0),
    // 6to4.
    (v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), 80),
];

const fn v4([a, b, c, d]: [u8; 4], n_bits: u32) -> Network {
    Network::v4(Ipv4Addr::new(a, b, c, d), n_bits)
}

const fn v6([a, b, c, d, e, f, g, h]: [u16; 8], n_bits: u32) -> Network {
    Network::v6(Ipv6Addr::new(a, b, c, d, e, f, g, h), n_bits)
}

/// The IPv4 address that an IPv6 address stands for, where it does; otherwise the address itself.
pub(crate) fn unwrapped(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let carrier = CARRIERS.iter().find(|(network, _)| network.contains(address));
    match carrier {
        // The low 32 bits of what is left are the IPv4 address.
        Some((_, shift)) => Ipv4Addr::from_bits((v6.to_bits() >> shift) as u32).into(),
        None => address,
    }
}

/// Whether an unwrapped address belongs to the public internet.
pub(crate) fn is_public(address: IpAddr) -> bool {
    let is_special = |special: &[Network]| special.iter().any(|network| network.contains(address));
    match address {
        IpAddr::V4(_) => !is_special(SPECIAL_V4),
        IpAddr::V6(_) => GLOBAL_V6.contains(address) && !is_special(SPECIAL_V6),
    }
}

/// Whether a cloud tells secrets at an unwrapped address.
pub(crate) fn is_metadata(address: IpAddr) -> bool {
    METADATA.contains(&address)
}
