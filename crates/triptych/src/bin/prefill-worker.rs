//! `prefill-worker`: the second stage of a request: prompt to first token and KV blocks, lent to
//! decode workers.

use clap::Parser;
use config::{Role, WorkerProcessFlags};
use std::process::ExitCode;
use triptych::{process, work};

/// Runs the prompts of requests for the decode workers of a cluster.
#[derive(Parser)]
#[command(name = "prefill-worker", version, about, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    flags: WorkerProcessFlags,
}

fn main() -> ExitCode {
    let Cli { flags } = Cli::parse();
    let log_format = flags.process.log_format;
    process::run("prefill-worker", log_format, |shutdown| work(flags, Role::Prefill, shutdown))
}
