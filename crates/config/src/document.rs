//! `docs/options.md`, written from the definitions themselves.

use crate::engine_args::EngineArgs;
use crate::engine_keys::KEYS;
use crate::serve::ServeFlags;
use clap::{Arg, Args, Command};
use std::fmt::Write;

const TITLE: &str = "# Options

This page is written by `config::document`; `crates/config/tests/options.rs` holds it to the code.
A flag wins over its environment variable.
For engine keys, a flag wins over `--override-engine-args`, that over the file of \
`--extra-engine-args`, that over the default.
";

/// The whole page.
pub fn options_markdown() -> String {
    let command = ServeFlags::augment_args(Command::new("triptych serve"));
    let mut page = format!("{TITLE}\n## Flags of `triptych serve`\n");
    for heading in headings(&command) {
        let _ = write!(page, "\n### {heading}\n\n{}", FLAG_TABLE);
        for arg in command.get_arguments().filter(|arg| arg.get_help_heading() == Some(heading)) {
            page.push_str(&flag_row(arg));
        }
    }
    page.push_str(&engine_section());
    page
}

const FLAG_TABLE: &str = "| flag | environment | default | |\n|---|---|---|---|\n";

/// Headings in the order in which they first occur.
fn headings(command: &Command) -> Vec<&str> {
    let mut seen = Vec::new();
    for heading in command.get_arguments().filter_map(Arg::get_help_heading) {
        if !seen.contains(&heading) {
            seen.push(heading);
        }
    }
    seen
}

fn flag_row(arg: &Arg) -> String {
    let long = arg.get_long().unwrap_or_default();
    let env = arg.get_env().unwrap_or_default().to_string_lossy();
    let defaults: Vec<_> =
        arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let default = match defaults.join(",") {
        none if none.is_empty() => String::new(),
        some => format!("`{some}`"),
    };
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let choices: Vec<_> =
        arg.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
    let accepts = match choices.is_empty() {
        true => String::new(),
        false => format!(" (accepts {})", choices.join(", ")),
    };
    format!("| `--{long}` | `{env}` | {default} | {help}{accepts} |\n")
}

fn engine_section() -> String {
    let mut section = String::from(
        "\n## Keys of the engine YAML\n\nA dot is a level of nesting. Null leaves the default.\n\n\
         | key | accepts | default | |\n|---|---|---|---|\n",
    );
    let mut defaults = EngineArgs::default();
    for key in KEYS {
        let slot = (key.slot)(&mut defaults);
        let _ = writeln!(
            section,
            "| `{}` | {} | `{}` | {} |",
            key.path,
            slot.accepts(),
            slot.show(),
            key.help
        );
    }
    section
}
