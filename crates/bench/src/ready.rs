//! How long a server takes from the start of its process to the first token that it answers.

use crate::client::{Chat, Client};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// Between two tries to get a token.
const RETRY_MS: u64 = 5;

/// What to start, and how soon it must answer.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Where it will answer.
    #[arg(long, default_value = "http://127.0.0.1:8000")]
    pub url: String,
    /// Fail when the first token takes longer than this.
    #[arg(long, default_value_t = 2000)]
    pub require_ms: u64,
    /// Give up after this.
    #[arg(long, default_value_t = 60_000)]
    pub give_up_ms: u64,
    /// The server's command line.
    #[arg(required = true, trailing_var_arg = true)]
    pub command: Vec<String>,
}

/// Starts the server, asks until a token comes, ends the server, prints the time.
pub fn run(args: &Args) -> Result<(), String> {
    let start = Instant::now();
    let mut server = Command::new(&args.command[0]);
    let server = server.args(&args.command[1..]).spawn();
    let mut server = Server(server.map_err(|error| format!("{}: {error}", args.command[0]))?);
    while !answers(&args.url) {
        server.must_run()?;
        if start.elapsed() > Duration::from_millis(args.give_up_ms) {
            return Err(format!("no token after {} ms", args.give_up_ms));
        }
        std::thread::sleep(Duration::from_millis(RETRY_MS));
    }
    let taken = start.elapsed().as_millis();
    println!("first token {taken} ms after the start of the process");
    if taken <= u128::from(args.require_ms) {
        return Ok(());
    }
    Err(format!("longer than {} ms", args.require_ms))
}

/// Whether a whole answer comes now.
fn answers(url: &str) -> bool {
    let chat = Chat { text: "Hello!".into(), pictures: vec![], max_tokens: 1, ignore_eos: false };
    Client::connect(url, None).and_then(|client| client.ask(&chat)).is_ok()
}

/// A process that ends with this value.
struct Server(Child);

impl Server {
    fn must_run(&mut self) -> Result<(), String> {
        match self.0.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(format!("the server ended: {status}")),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
