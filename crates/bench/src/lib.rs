//! Measures a server from outside, as a client would: accuracy of the demo model, load, start-up.
//!
//! Speaks HTTP only; must not know anything of what is inside a server.

pub mod client;
pub mod draw;
pub mod eval;
pub mod load;
pub mod pictures;
mod pool;
pub mod ready;
pub mod rng;
mod server_cpu;

/// What to measure.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// Ask the demo model about fresh pictures and count the right answers.
    Eval(eval::Args),
    /// Draw the evaluation's pictures and questions into a folder.
    Draw(draw::Args),
    /// Send chats and print the percentiles of their times.
    Load(load::Args),
    /// Start a server and time it to its first token.
    Ready(ready::Args),
    /// Print the Debian packages of typefaces that an evaluation still needs.
    Fonts,
}

/// Measures; the error is what to tell the user before a failing exit.
pub fn run(command: &Command) -> Result<(), String> {
    match command {
        Command::Eval(args) => eval::run(args),
        Command::Draw(args) => draw::run(args),
        Command::Load(args) => load::run(args),
        Command::Ready(args) => ready::run(args),
        Command::Fonts => {
            pictures::digits::missing_packages().iter().for_each(|package| println!("{package}"));
            Ok(())
        }
    }
}
