//! What the HTTP side is told: where to listen, and how large a client can make anything.

use crate::access::{AccessConfig, AccessFlags};
use crate::process::{ProcessConfig, megabytes};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use types::{Error, Result};

/// Largest request body that any flag allows, in megabytes.
const BODY_MB_MAX: u64 = 4096;

/// What users write about the HTTP side.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "HTTP")]
pub struct FrontendFlags {
    /// Address to listen on.
    #[arg(long, env = "TRIPTYCH_HTTP_HOST", value_name = "IP", default_value = "0.0.0.0")]
    pub http_host: IpAddr,
    /// Port to listen on; 0 takes a free one.
    #[arg(long, env = "TRIPTYCH_HTTP_PORT", value_name = "PORT", default_value_t = 8000)]
    pub http_port: u16,
    /// Most requests at work at once; more are refused with 429.
    #[arg(
        long,
        env = "TRIPTYCH_MAX_INFLIGHT_REQUESTS",
        value_name = "COUNT",
        default_value_t = 1024
    )]
    pub max_inflight_requests: usize,
    /// Largest request body.
    #[arg(long, env = "TRIPTYCH_MAX_BODY_MB", value_name = "MB", default_value_t = 128)]
    pub max_body_mb: u64,
    /// Most messages of one request.
    #[arg(long, env = "TRIPTYCH_MAX_MESSAGES", value_name = "COUNT", default_value_t = 2048)]
    pub max_messages: usize,
    /// Most media of one request.
    #[arg(long, env = "TRIPTYCH_MAX_MEDIA_ITEMS", value_name = "COUNT", default_value_t = 64)]
    pub max_media_items: usize,
    /// Longest time to the first token, in seconds; then the request fails with 504.
    #[arg(
        long,
        env = "TRIPTYCH_FIRST_TOKEN_TIMEOUT_S",
        value_name = "SECONDS",
        default_value_t = 600
    )]
    pub first_token_timeout_s: u64,
    /// Longest silence between tokens, in seconds; then the stream ends with an error. Behind the
    /// first token it covers the moving of the prompt to a decode worker.
    #[arg(
        long,
        env = "TRIPTYCH_IDLE_STREAM_TIMEOUT_S",
        value_name = "SECONDS",
        default_value_t = 120
    )]
    pub idle_stream_timeout_s: u64,
    /// How a worker is chosen among those that can take a request; this build knows
    /// `least-loaded`.
    #[arg(
        long,
        env = "TRIPTYCH_ROUTER_MODE",
        value_name = "least-loaded",
        value_parser = parse_router_mode,
        default_value = "least-loaded"
    )]
    pub router_mode: RouterMode,
    /// Who may ask.
    #[command(flatten)]
    pub access: AccessFlags,
}

/// How a worker is chosen among those that can take a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouterMode {
    /// The one with the fewest requests under way.
    LeastLoaded,
}

/// What the HTTP side is told, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrontendConfig {
    /// Where to listen.
    pub address: SocketAddr,
    /// How a worker is chosen.
    pub router_mode: RouterMode,
    /// Who may ask.
    pub access: AccessConfig,
    /// Limits of what a client may send and ask for.
    pub limits: FrontendLimits,
    /// Longest time to the first token.
    pub first_token_deadline: Duration,
    /// Longest silence between tokens.
    pub idle_stream_deadline: Duration,
    /// Longest time to receive a request: its header, and again its body.
    pub receive_deadline: Duration,
    /// Longest time in which a client takes nothing of its answer; then it is let go.
    pub send_deadline: Duration,
    /// After a signal to stop, how long running requests may go on.
    pub drain_deadline: Duration,
}

/// Limits of what a client may send and ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrontendLimits {
    /// Requests at work at once.
    pub n_inflight_max: usize,
    /// Bytes of a request body.
    pub body_bytes_max: usize,
    /// Bytes of the bodies of all requests that are being read.
    pub body_bytes_held_max: usize,
    /// Bytes of a request's header lines; a buffer more may pass.
    pub header_bytes_max: usize,
    /// Header lines of a request.
    pub n_headers_max: usize,
    /// Bytes of one medium of a data URL, decoded from base64.
    pub media_file_bytes_max: u64,
    /// Messages of a request.
    pub n_messages_max: usize,
    /// Media of a request.
    pub n_media_max: usize,
    /// Stop strings of a request.
    pub n_stop_strings_max: usize,
    /// Bytes of one stop string.
    pub stop_string_bytes_max: usize,
    /// Choices of a request.
    pub n_choices_max: usize,
    /// Tokenising and decoding of large bodies that run at once, off the event loop.
    pub n_blocking_max: usize,
}

impl Default for FrontendLimits {
    fn default() -> Self {
        Self {
            n_inflight_max: 1024,
            body_bytes_max: 128 << 20,
            body_bytes_held_max: 1 << 30,
            header_bytes_max: 32 << 10,
            n_headers_max: 100,
            media_file_bytes_max: 50 << 20,
            n_messages_max: 2048,
            n_media_max: 64,
            n_stop_strings_max: 16,
            stop_string_bytes_max: 1024,
            n_choices_max: 128,
            n_blocking_max: 8,
        }
    }
}

impl Default for FrontendConfig {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([0, 0, 0, 0], 8000)),
            router_mode: RouterMode::LeastLoaded,
            access: AccessConfig::default(),
            limits: FrontendLimits::default(),
            first_token_deadline: Duration::from_secs(600),
            idle_stream_deadline: Duration::from_secs(120),
            receive_deadline: Duration::from_secs(60),
            send_deadline: Duration::from_secs(60),
            drain_deadline: Duration::from_secs(30),
        }
    }
}

impl FrontendFlags {
    /// Checks every value.
    pub fn resolve(self, process: &ProcessConfig) -> Result<FrontendConfig> {
        let body_bytes_max = megabytes("--max-body-mb", self.max_body_mb, BODY_MB_MAX)?;
        if process.media_bytes_held_max < body_bytes_max {
            return Err(Error::invalid(format!(
                "--media-memory-mb: expected at least one request of --max-body-mb ({})",
                self.max_body_mb
            )));
        }
        let limits = FrontendLimits {
            n_inflight_max: at_least_one("--max-inflight-requests", self.max_inflight_requests)?,
            body_bytes_max: body_bytes_max as usize,
            body_bytes_held_max: process.media_bytes_held_max as usize,
            media_file_bytes_max: process.media_file_bytes_max,
            n_messages_max: at_least_one("--max-messages", self.max_messages)?,
            n_media_max: self.max_media_items,
            ..FrontendLimits::default()
        };
        let seconds = |flag, given: u64| {
            at_least_one(flag, given as usize).map(|given| Duration::from_secs(given as u64))
        };
        Ok(FrontendConfig {
            address: SocketAddr::new(self.http_host, self.http_port),
            router_mode: self.router_mode,
            access: self.access.resolve()?,
            limits,
            first_token_deadline: seconds("--first-token-timeout-s", self.first_token_timeout_s)?,
            idle_stream_deadline: seconds("--idle-stream-timeout-s", self.idle_stream_timeout_s)?,
            drain_deadline: process.drain_deadline,
            ..FrontendConfig::default()
        })
    }
}

fn at_least_one(flag: &str, given: usize) -> Result<usize> {
    if given == 0 {
        return Err(Error::invalid(format!("{flag}: 0 is not accepted; expected at least 1")));
    }
    Ok(given)
}

fn parse_router_mode(word: &str) -> std::result::Result<RouterMode, String> {
    match word {
        "least-loaded" => Ok(RouterMode::LeastLoaded),
        "kv" | "round-robin" | "random" => Err(format!(
            "{word} routing is not built yet; use least-loaded, which takes the worker with the \
             fewest requests under way"
        )),
        _ => Err("expected least-loaded".to_owned()),
    }
}
