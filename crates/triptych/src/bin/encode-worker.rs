//! `encode-worker`: the first stage of a request: media to embedding rows, lent to prefill workers.

use clap::Parser;
use config::{Role, WorkerProcessFlags};
use std::process::ExitCode;
use triptych::{process, work};

/// Encodes the media of requests for the prefill workers of a cluster.
#[derive(Parser)]
#[command(name = "encode-worker", version, about, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    flags: WorkerProcessFlags,
}

fn main() -> ExitCode {
    let Cli { flags } = Cli::parse();
    let log_format = flags.process.log_format;
    process::run("encode-worker", log_format, |shutdown| work(flags, Role::Encode, shutdown))
}
