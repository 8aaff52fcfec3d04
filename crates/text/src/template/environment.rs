//! Jinja as Hugging Face sets it up: its switches, its functions, Python's methods.

use super::{filters, meter, namespaces, python_json, python_methods, strftime};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind};
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// Most instructions of one rendering: some thousand messages with room to spare.
const MAX_FUEL: u64 = 5_000_000;

/// Deepest nesting of macros and loops that call themselves.
const MAX_RECURSION: usize = 100;

/// The words that a template gave `raise_exception`.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

/// An environment without templates.
pub(super) fn new() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_syntax(syntax());
    environment.set_fuel(Some(MAX_FUEL));
    environment.set_recursion_limit(MAX_RECURSION);
    environment.set_unknown_method_callback(python_methods::call);
    meter::add_to(&mut environment);
    filters::add_to(&mut environment);
    namespaces::add_to(&mut environment);
    environment.add_filter("tojson", python_json::tojson);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment
}

/// Jinja's braces, with the white space around blocks as Hugging Face wants it.
pub(super) fn syntax() -> SyntaxConfig {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    syntax.expect("the usual delimiters are valid")
}

/// What a template said when it refused the messages.
pub(super) fn raised(error: &Error) -> Option<String> {
    let mut source = Some(error as &dyn std::error::Error);
    while let Some(error) = source {
        if let Some(Raised(words)) = error.downcast_ref() {
            return Some(words.clone());
        }
        source = error.source();
    }
    None
}

/// The template with `{% generation %}` blocks made plain ones. They mark the assistant's words for
/// training; to rendering they mean nothing.
pub(super) fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let Some(end) = tag[2..].find("%}").map(|at| 2 + at) else { break };
        let words = &tag[2..end];
        match words.trim_matches(['-', '+', ' ', '\t', '\n', '\r']) {
            "generation" => out.push_str(&format!("{{%{}", words.replace("generation", "if true"))),
            "endgeneration" => {
                out.push_str(&format!("{{%{}", words.replace("endgeneration", "endif")));
            }
            _ => out.push_str(&tag[..end]),
        }
        rest = &tag[end..];
    }
    out.push_str(rest);
    out
}

fn raise_exception(words: String) -> Result<String, Error> {
    let error = Error::new(ErrorKind::InvalidOperation, "the template refused the messages");
    Err(error.with_source(Raised(words)))
}

/// The time of day in UTC: servers have no other.
fn strftime_now(format: &str) -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    strftime::format(format, since.as_secs())
}
