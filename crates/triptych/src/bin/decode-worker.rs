//! `decode-worker`: the last stage of a request: KV blocks to all further tokens.

use clap::Parser;
use config::{Role, WorkerProcessFlags};
use std::process::ExitCode;
use triptych::{process, work};

/// Generates the answers of requests from the KV blocks of prefill workers.
#[derive(Parser)]
#[command(name = "decode-worker", version, about, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    flags: WorkerProcessFlags,
}

fn main() -> ExitCode {
    let Cli { flags } = Cli::parse();
    let log_format = flags.process.log_format;
    process::run("decode-worker", log_format, |shutdown| work(flags, Role::Decode, shutdown))
}
