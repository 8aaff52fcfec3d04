//! `worker`: all stages of a request in one process, or those of `--disaggregation-mode`.

use clap::Parser;
use config::{ModeFlags, WorkerProcessFlags};
use std::process::ExitCode;
use triptych::{process, work};

/// Serves a model to the frontends of a cluster: all stages, or those of `--disaggregation-mode`.
#[derive(Parser)]
#[command(name = "worker", version, about, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    mode: ModeFlags,
    #[command(flatten)]
    flags: WorkerProcessFlags,
}

fn main() -> ExitCode {
    let Cli { mode, flags } = Cli::parse();
    let (role, log_format) = (mode.disaggregation_mode.role(), flags.process.log_format);
    process::run("worker", log_format, |shutdown| work(flags, role, shutdown))
}
