//! `frontend`: OpenAI's API over HTTP, for workers in other processes. It has no model folder.

use clap::Parser;
use config::{FrontendProcessConfig, FrontendProcessFlags, World};
use frontend::Shutdown;
use std::process::ExitCode;
use triptych::process::{run, unless_stopped};
use triptych::{Fronting, Listening, System};
use types::Result;

/// Answers OpenAI's API over HTTP, with the workers that register.
#[derive(Parser)]
#[command(name = "frontend", version, about)]
struct Cli {
    #[command(flatten)]
    flags: FrontendProcessFlags,
}

fn main() -> ExitCode {
    let Cli { flags } = Cli::parse();
    let log_format = flags.process.log_format;
    run("frontend", log_format, |shutdown| answer(flags, shutdown))
}

async fn answer(flags: FrontendProcessFlags, shutdown: Shutdown) -> Result<()> {
    let config = flags.resolve(&World::of_process())?;
    let system = System::start(&config.process).await?;
    let started = unless_stopped(&shutdown, start(config, &system, &shutdown)).await?;
    let Some(fronting) = started else { return Ok(()) };
    tracing::info!("serving on {}", fronting.url);
    shutdown.begun().await;
    system.stopping();
    fronting.ended().await
}

async fn start(
    config: FrontendProcessConfig,
    system: &System,
    shutdown: &Shutdown,
) -> Result<Fronting> {
    let listening = Listening::start(&config.frontend).await?;
    let planes = triptych::connect(&config.cluster, "frontend", system, None).await?;
    listening.front(planes, config.frontend, system, shutdown).await
}
