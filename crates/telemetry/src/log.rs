//! Logs: to standard error, filtered by `TRIPTYCH_LOG` or else `RUST_LOG`; `info` by default.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, ParseError};
use tracing_subscriber::fmt::format::FmtSpan;

/// What is said of connections is said by us.
const DEFAULT: &str = "info,async_nats=warn";

/// How a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineFormat {
    /// For people.
    Text,
    /// A JSON object: `timestamp`, `level`, `target`, the event's fields, and the spans around it.
    Json,
}

/// Starts logging for the whole process. Call once, first thing in `main`.
///
/// Errors: the filter cannot be understood; the text says which variable held it.
pub fn start(format: LineFormat) -> Result<(), String> {
    let filter = filter(|name| std::env::var(name).ok())?;
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let ends = ends_of_spans(&filter);
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let lines = lines.with_span_events(ends);
    let started = match format {
        LineFormat::Text => lines.with_ansi(colours).try_init(),
        LineFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| format!("logging was started twice: {error}"))
}

/// The filter that the variables ask for.
fn filter(variable: impl Fn(&str) -> Option<String>) -> Result<EnvFilter, String> {
    for name in ["TRIPTYCH_LOG", "RUST_LOG"] {
        if let Some(text) = variable(name).filter(|text| !text.is_empty()) {
            return EnvFilter::try_new(&text)
                .map_err(|error: ParseError| format!("{name}={text}: {error}"));
        }
    }
    Ok(EnvFilter::new(DEFAULT))
}

/// Whoever wants to see much sees each stage of a request end, with its trace and its time.
fn ends_of_spans(filter: &EnvFilter) -> FmtSpan {
    let sees_much = filter.max_level_hint().is_none_or(|most| most >= LevelFilter::DEBUG);
    if sees_much { FmtSpan::CLOSE } else { FmtSpan::NONE }
}

#[cfg(test)]
mod tests {
    use super::filter;

    fn check(variables: &[(&str, &str)], expected: Result<&str, &str>) {
        let lookup = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name)?;
            Some(found.1.to_owned())
        };
        match (filter(lookup), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found.to_string(), expected),
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
            (found, _) => panic!("{variables:?} gave {found:?}"),
        }
    }

    #[test]
    fn our_variable_wins_and_info_is_the_default() {
        check(&[], Ok("async_nats=warn,info"));
        check(&[("TRIPTYCH_LOG", "")], Ok("async_nats=warn,info"));
        check(&[("RUST_LOG", "warn")], Ok("warn"));
        check(&[("RUST_LOG", "warn"), ("TRIPTYCH_LOG", "debug")], Ok("debug"));
        check(&[("RUST_LOG", "a=b=c")], Err("RUST_LOG=a=b=c"));
    }
}
