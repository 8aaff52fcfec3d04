//! `docs/options.md`, written from the definitions themselves.

use crate::check::CheckFlags;
use crate::engine_args::EngineArgs;
use crate::engine_keys::KEYS;
use crate::separate::{FrontendProcessFlags, ModeFlags, WorkerProcessFlags};
use crate::serve::ServeFlags;
use clap::{Arg, Args, Command};
use std::fmt::Write;

const TITLE: &str = "# Options

This page is written by `config::document`; `crates/config/tests/options.rs` holds it to the code.
A flag wins over its environment variable.
For engine keys, a flag wins over `--override-engine-args`, that over the file of \
`--extra-engine-args`, that over the default.

## Flags

The column \"of\" says which programs take a flag: `serve` is `triptych serve`, `frontend` is \
itself, `workers` are `worker`, `encode-worker`, `prefill-worker` and `decode-worker`.
`triptych check` takes all of them.
";

const FLAG_TABLE: &str = "| flag | of | environment | default | |\n|---|---|---|---|---|\n";

/// The flags of one program, or of several that take the same.
struct Program {
    name: &'static str,
    flags: Command,
}

fn programs() -> Vec<Program> {
    let program = |name, augment: fn(Command) -> Command| Program {
        name,
        flags: augment(Command::new(name)),
    };
    vec![
        program("serve", ServeFlags::augment_args),
        program("frontend", FrontendProcessFlags::augment_args),
        program("workers", WorkerProcessFlags::augment_args),
        program("worker", ModeFlags::augment_args),
    ]
}

/// The whole page.
pub fn options_markdown() -> String {
    let programs = programs();
    let all = CheckFlags::augment_args(Command::new("check"));
    let mut page = TITLE.to_owned();
    for heading in headings(&all) {
        let _ = write!(page, "\n### {heading}\n\n{FLAG_TABLE}");
        for arg in all.get_arguments().filter(|arg| arg.get_help_heading() == Some(heading)) {
            page.push_str(&flag_row(arg, &takers(&programs, arg)));
        }
    }
    page.push_str(&engine_section());
    page
}

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

/// The programs that take a flag, in words.
fn takers(programs: &[Program], arg: &Arg) -> String {
    let takes = |program: &&Program| {
        program.flags.get_arguments().any(|taken| taken.get_long() == arg.get_long())
    };
    let names: Vec<_> = programs.iter().filter(takes).map(|program| program.name).collect();
    match names[..] {
        [] => "`triptych check`".to_owned(),
        ["serve", "frontend", "workers"] => "all".to_owned(),
        _ => names.join(", "),
    }
}

fn flag_row(arg: &Arg, takers: &str) -> String {
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
    format!("| `--{long}` | {takers} | `{env}` | {default} | {help}{accepts} |\n")
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
