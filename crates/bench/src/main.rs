//! `triptych-bench`: measures a server from outside.

use clap::Parser;
use std::process::ExitCode;

/// Measures a server from outside.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: bench::Command,
}

fn main() -> ExitCode {
    match bench::run(&Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
