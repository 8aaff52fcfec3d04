//! Everything in one process (`triptych serve`), and the tools.

use clap::{Parser, Subcommand};
use config::{CheckFlags, ServeFlags, World};
use frontend::Shutdown;
use std::process::ExitCode;
use triptych::process::{failed, run, unless_stopped};
use types::Result;

const NAME: &str = "triptych";

/// Serves multimodal language models.
#[derive(Parser)]
#[command(name = NAME, version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer requests: frontend and workers in one process.
    Serve(Box<ServeFlags>),
    /// Say what would keep a process with these flags from starting, without starting it.
    Check(Box<CheckFlags>),
    /// Measure a server from outside, or the engine from inside.
    #[command(subcommand)]
    Bench(Bench),
}

#[derive(Subcommand)]
enum Bench {
    #[command(flatten)]
    Outside(bench::Command),
    #[command(flatten)]
    Inside(bench_engine::Command),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(flags) => {
            run(NAME, flags.process.log_format, |shutdown| serve(*flags, shutdown))
        }
        Command::Check(flags) => {
            run(NAME, flags.serve.process.log_format, |_| triptych::check::run(*flags))
        }
        Command::Bench(command) => match measure(&command) {
            Ok(()) => ExitCode::SUCCESS,
            Err(message) => failed(NAME, &message),
        },
    }
}

fn measure(command: &Bench) -> std::result::Result<(), String> {
    match command {
        Bench::Outside(command) => bench::run(command),
        Bench::Inside(command) => bench_engine::run(command).map_err(|error| error.to_string()),
    }
}

async fn serve(flags: ServeFlags, shutdown: Shutdown) -> Result<()> {
    let config = flags.resolve(&World::of_process())?;
    let name = config.worker.served_model_name.clone();
    let serving = triptych::serve(config, shutdown.clone());
    let Some(served) = unless_stopped(&shutdown, serving).await? else { return Ok(()) };
    tracing::info!("serving {name} on {}", served.url);
    served.ended().await
}
