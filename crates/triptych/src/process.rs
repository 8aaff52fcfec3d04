//! The outermost layer of every program: logs, threads, signals, and the exit code.

use config::LogFormat;
use frontend::{Shutdown, ShutdownTrigger};
use std::process::ExitCode;
use std::time::Duration;
use telemetry::log::LineFormat;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use types::{Error, Result};

/// What a shell says of a program that a signal ended, less the signal's number.
const EXIT_CODE_OF_SIGNALS: i32 = 128;

/// How long work that cannot be cancelled (the loading of a model) may hold up the end.
const LEAVE_TIME: Duration = Duration::from_millis(200);

/// Runs a program called `name`, whose log is written as `log_format`, to its end; what it fails
/// with is said in one line.
///
/// SIGTERM and SIGINT begin its shutdown; a second one ends it at once.
pub fn run<F>(name: &str, log_format: LogFormat, program: impl FnOnce(Shutdown) -> F) -> ExitCode
where
    F: Future<Output = Result<()>>,
{
    if let Err(message) = telemetry::log::start(line_format(log_format)) {
        return failed(name, &message);
    }
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failed(name, &format!("cannot start threads: {error}")),
    };
    let result = runtime.block_on(async { program(shutdown_on_signals()?).await });
    runtime.shutdown_timeout(LEAVE_TIME);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(name, &error.to_string()),
    }
}

fn line_format(format: LogFormat) -> LineFormat {
    match format {
        LogFormat::Text => LineFormat::Text,
        LogFormat::Json => LineFormat::Json,
    }
}

/// Says why `name` failed.
pub fn failed(name: &str, message: &str) -> ExitCode {
    eprintln!("{name}: {message}");
    ExitCode::FAILURE
}

/// What `start` gives, unless the shutdown begins before that: then `None`.
pub async fn unless_stopped<T>(
    shutdown: &Shutdown,
    start: impl Future<Output = Result<T>>,
) -> Result<Option<T>> {
    tokio::select! {
        started = start => started.map(Some),
        () = shutdown.clone().begun() => Ok(None),
    }
}

fn shutdown_on_signals() -> Result<Shutdown> {
    let listen = |kind| {
        signal(kind).map_err(|error| Error::internal(format!("cannot listen for signals: {error}")))
    };
    let signals = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let (trigger, shutdown) = Shutdown::new();
    tokio::spawn(obey(signals, trigger));
    Ok(shutdown)
}

async fn obey(mut signals: (Signal, Signal), trigger: ShutdownTrigger) {
    let (name, _) = next(&mut signals).await;
    tracing::info!("stopping after {name}; a second signal ends the process at once");
    trigger.begin();
    let (_, second) = next(&mut signals).await;
    std::process::exit(EXIT_CODE_OF_SIGNALS + second.as_raw_value());
}

async fn next((terminate, interrupt): &mut (Signal, Signal)) -> (&'static str, SignalKind) {
    tokio::select! {
        _ = terminate.recv() => ("SIGTERM", SignalKind::terminate()),
        _ = interrupt.recv() => ("SIGINT", SignalKind::interrupt()),
    }
}
