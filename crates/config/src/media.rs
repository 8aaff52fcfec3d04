//! From where media may be fetched over HTTP(S), and how long that may take.

use crate::seconds::seconds;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;
use types::{Error, Result};

/// Longest time that any of these flags allows, in seconds.
const SECONDS_MAX: u64 = 3600;

/// What users write about media that are fetched.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Media")]
pub struct MediaFlags {
    /// The only hosts from which media are fetched, separated by commas; `*.example.com` stands for
    /// all hosts below `example.com` [default: any host of the public internet].
    #[arg(
        long,
        env = "TRIPTYCH_ALLOWED_MEDIA_DOMAINS",
        value_name = "HOSTS",
        value_delimiter = ','
    )]
    pub allowed_media_domains: Vec<String>,
    /// Networks from which media are fetched although they are not the public internet's, separated
    /// by commas, such as `10.1.0.0/16`; where a cloud tells a machine its secrets must be named by
    /// its very address [default: none].
    #[arg(
        long,
        env = "TRIPTYCH_ALLOWED_MEDIA_NETWORKS",
        value_name = "IP/BITS",
        value_delimiter = ','
    )]
    pub allowed_media_networks: Vec<String>,
    /// Longest time to reach a medium's origin, in seconds.
    #[arg(
        long,
        env = "TRIPTYCH_MEDIA_CONNECT_TIMEOUT_S",
        value_name = "SECONDS",
        default_value_t = 5
    )]
    pub media_connect_timeout_s: u64,
    /// Longest silence of a medium's origin, in seconds.
    #[arg(
        long,
        env = "TRIPTYCH_MEDIA_READ_TIMEOUT_S",
        value_name = "SECONDS",
        default_value_t = 10
    )]
    pub media_read_timeout_s: u64,
    /// Longest time to fetch a medium, redirects and all, in seconds.
    #[arg(
        long,
        env = "TRIPTYCH_MEDIA_FETCH_TIMEOUT_S",
        value_name = "SECONDS",
        default_value_t = 60
    )]
    pub media_fetch_timeout_s: u64,
}

/// From where media may be fetched, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaConfig {
    /// The only hosts, in lower case, some with `*.` before them; empty means any.
    pub domains: Vec<String>,
    /// Networks allowed beside the public internet: an address, and how many of its bits count.
    pub networks: Vec<(IpAddr, u32)>,
    /// Longest time to reach an origin.
    pub connect_deadline: Duration,
    /// Longest silence of an origin.
    pub read_deadline: Duration,
    /// Longest time for everything.
    pub fetch_deadline: Duration,
}

impl MediaFlags {
    /// Checks every value.
    pub fn resolve(self) -> Result<MediaConfig> {
        let deadline = |flag, given| seconds(flag, given, SECONDS_MAX);
        Ok(MediaConfig {
            domains: each(&self.allowed_media_domains, domain)?,
            networks: each(&self.allowed_media_networks, network)?,
            connect_deadline: deadline("--media-connect-timeout-s", self.media_connect_timeout_s)?,
            read_deadline: deadline("--media-read-timeout-s", self.media_read_timeout_s)?,
            fetch_deadline: deadline("--media-fetch-timeout-s", self.media_fetch_timeout_s)?,
        })
    }
}

/// Reads each word of a list; nothing between two commas is no word.
fn each<T>(words: &[String], read: impl Fn(&str) -> Result<T>) -> Result<Vec<T>> {
    words.iter().map(|word| word.trim()).filter(|word| !word.is_empty()).map(read).collect()
}

/// A host in ASCII as URLs name it, maybe with `*.` before it.
fn domain(word: &str) -> Result<String> {
    let name = word.trim_end_matches('.');
    let host = match name.strip_prefix("*.") {
        Some(below) if is_name(below) => Some(name.to_ascii_lowercase()),
        Some(_) => None,
        None if is_name(name) => Some(name.to_ascii_lowercase()),
        None => address(name),
    };
    host.ok_or_else(|| {
        Error::invalid(format!(
            "--allowed-media-domains: {word:?} is not accepted; expected hosts such as \
             images.example.com or *.example.com, without scheme, port and path: a host that is \
             listed is asked on every port"
        ))
    })
}

/// Whether it is a name rather than an address: those end in a number.
fn is_name(host: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
    };
    let last = host.rsplit('.').next().unwrap_or_default();
    let (digits, radix) = last.strip_prefix("0x").map_or((last, 10), |digits| (digits, 16));
    let is_number = digits.chars().all(|c| c.is_digit(radix));
    !is_number && host.split('.').all(is_label)
}

/// An IP address as URLs write it.
fn address(host: &str) -> Option<String> {
    if let Ok(address) = host.parse::<Ipv4Addr>() {
        return Some(address.to_string());
    }
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let address: Ipv6Addr = inner.parse().ok()?;
    // URLs write one that stands for an IPv4 address otherwise; that address may be listed itself.
    address.to_ipv4_mapped().is_none().then(|| format!("[{address}]"))
}

/// `address/bits`, or an address alone.
fn network(word: &str) -> Result<(IpAddr, u32)> {
    let read = || {
        let (address, n_bits) = match word.split_once('/') {
            Some((address, n_bits)) => (address, Some(n_bits.parse().ok()?)),
            None => (word, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let n_bits = n_bits.unwrap_or(most);
        (n_bits <= most).then_some((address, n_bits))
    };
    read().ok_or_else(|| {
        Error::invalid(format!(
            "--allowed-media-networks: {word:?} is not accepted; expected networks such as \
             10.1.0.0/16 or fd00::/8"
        ))
    })
}
