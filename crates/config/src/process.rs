//! What every process is told, whatever its role: its system port, how it ends, and how many bytes
//! of media it may hold.

use crate::MIB;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use types::{Error, Result};

/// Largest size in megabytes that any flag takes.
const MB_MAX: u64 = 1 << 20;

/// Largest medium that any flag allows, in megabytes.
const FILE_MB_MAX: u64 = 4096;

/// What users write about a process.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Process")]
pub struct ProcessFlags {
    /// Port of `/health`, `/live` and `/metrics` for the system's side; 0 takes a free one
    /// [default: none].
    #[arg(long, env = "TRIPTYCH_SYSTEM_PORT", value_name = "PORT")]
    pub system_port: Option<u16>,
    /// Address of the system port [default: `--http-host` where there is one, else 0.0.0.0].
    #[arg(long, env = "TRIPTYCH_SYSTEM_HOST", value_name = "IP")]
    pub system_host: Option<IpAddr>,
    /// After a signal to stop, how long running requests may go on, in seconds.
    #[arg(long, env = "TRIPTYCH_DRAIN_TIMEOUT_S", value_name = "SECONDS", default_value_t = 30)]
    pub drain_timeout_s: u64,
    /// How lines of the log are written; `TRIPTYCH_LOG` says how much is (`info`, `debug`,
    /// `warn,router=debug`).
    #[arg(long, env = "TRIPTYCH_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Largest medium, before decoding its format.
    #[arg(
        long,
        env = "TRIPTYCH_MAX_FILE_SIZE_MB",
        value_name = "MB",
        default_value_t = 50,
        help_heading = "Media"
    )]
    pub max_file_size_mb: u64,
    /// Most bytes of requests and of encoded media that wait in the memory of one process, and as
    /// many again of pictures that are being decoded; more makes requests wait or fail with 429.
    #[arg(
        long,
        env = "TRIPTYCH_MEDIA_MEMORY_MB",
        value_name = "MB",
        default_value_t = 1024,
        help_heading = "Media"
    )]
    pub media_memory_mb: u64,
}

/// How lines of the log are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// A JSON object each, for programs.
    Json,
}

/// What every process is told, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessConfig {
    /// Where to serve health and metrics of the system's side.
    pub system_address: Option<SocketAddr>,
    /// After a signal to stop, how long running requests may go on.
    pub drain_deadline: Duration,
    /// How lines of the log are written.
    pub log_format: LogFormat,
    /// Largest encoded medium, in bytes.
    pub media_file_bytes_max: u64,
    /// Most bytes of requests and encoded media held at once.
    pub media_bytes_held_max: u64,
}

impl ProcessFlags {
    /// Checks every value; `http_host` is where the process speaks HTTP to clients, if it does.
    pub fn resolve(self, http_host: Option<IpAddr>) -> Result<ProcessConfig> {
        let host = self.system_host.or(http_host).unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        let file_bytes_max = megabytes("--max-file-size-mb", self.max_file_size_mb, FILE_MB_MAX)?;
        let bytes_held_max = megabytes("--media-memory-mb", self.media_memory_mb, MB_MAX)?;
        if bytes_held_max < file_bytes_max {
            return Err(Error::invalid(format!(
                "--media-memory-mb: {} is less than one medium of --max-file-size-mb ({})",
                self.media_memory_mb, self.max_file_size_mb
            )));
        }
        Ok(ProcessConfig {
            system_address: self.system_port.map(|port| SocketAddr::new(host, port)),
            drain_deadline: Duration::from_secs(self.drain_timeout_s),
            log_format: self.log_format,
            media_file_bytes_max: file_bytes_max,
            media_bytes_held_max: bytes_held_max,
        })
    }
}

/// A size in bytes. Errors: none at all, or over `most` megabytes.
pub(crate) fn megabytes(flag: &str, given: u64, most: u64) -> Result<u64> {
    if !(1..=most).contains(&given) {
        return Err(Error::invalid(format!(
            "{flag}: {given} is not accepted; expected an integer from 1 to {most}"
        )));
    }
    Ok(given * MIB)
}
