//! From where media may be fetched over HTTP(S), and how long that may take.

use crate::seconds::seconds;
use std::net::IpAddr;
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

/// A host in ASCII, maybe with `*.` before it.
fn domain(word: &str) -> Result<String> {
    let host = word.strip_prefix("*.").unwrap_or(word);
    // Colons and brackets are for IPv6 addresses.
    let is_host = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    if host.is_empty() || host.starts_with('.') || !host.chars().all(is_host) {
        return Err(Error::invalid(format!(
            "--allowed-media-domains: {word:?} is not accepted; expected hosts such as \
             images.example.com or *.example.com, without scheme, port and path"
        )));
    }
    Ok(word.trim_end_matches('.').to_ascii_lowercase())
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
