//! Everything in one process (`triptych serve`), and the tools.

use clap::{Parser, Subcommand};
use config::{ServeFlags, World};
use frontend::Shutdown;
use std::process::ExitCode;
use types::{Error, Result};

/// Serves multimodal language models.
#[derive(Parser)]
#[command(name = "triptych", version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer requests: frontend and workers in one process.
    Serve(Box<ServeFlags>),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(message) = telemetry::log::start() {
        return failed(&message);
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("cannot start threads: {error}")),
    };
    let result = match cli.command {
        Command::Serve(flags) => runtime.block_on(serve(*flags)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error.to_string()),
    }
}

async fn serve(flags: ServeFlags) -> Result<()> {
    let config = flags.resolve(&World::of_process())?;
    let name = config.worker.served_model_name.clone();
    let shutdown = Shutdown::on_signals()
        .map_err(|error| Error::internal(format!("cannot listen for signals: {error}")))?;
    let served = triptych::serve(config, shutdown).await?;
    tracing::info!("serving {name} on http://{}", served.address);
    served.ended().await
}

fn failed(message: &str) -> ExitCode {
    eprintln!("triptych: {message}");
    ExitCode::FAILURE
}
