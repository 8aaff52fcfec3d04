//! A server of the demo model in this process and a client for it; and processes of their own, with
//! the servers they need, in the modules.

// Every test file uses a part of this.
#![allow(dead_code)]

pub(crate) mod cluster;
pub(crate) mod crowd;
pub(crate) mod fleet;
pub(crate) mod folder;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod questions;
pub(crate) mod servers;
pub(crate) mod soaker;

use bench::client::{Chat, Client};
use clap::Parser;
use config::{ServeFlags, World};
use frontend::{Shutdown, ShutdownTrigger};
use process::PATIENCE;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use triptych::Served;

/// The two shapes of one process that every test of answers runs in.
pub(crate) const TOPOLOGIES: [&str; 2] = ["agg", "e,p,d"];

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    flags: ServeFlags,
}

/// A server that ends with the test.
pub(crate) struct TestServer {
    pub(crate) served: Served,
    pub(crate) url: String,
    /// Held, because dropping it stops the server.
    pub(crate) trigger: ShutdownTrigger,
}

pub(crate) fn demo_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/shapes")
}

impl TestServer {
    /// Serves the demo model with `roles`, on the processor unless `more` flags say otherwise.
    pub(crate) async fn start(roles: &str, more: &[&str]) -> Self {
        Self::start_model(&demo_model(), roles, more).await
    }

    /// The same with the model of a folder.
    pub(crate) async fn start_model(model: &Path, roles: &str, more: &[&str]) -> Self {
        let model = model.to_str().unwrap();
        let flags = ["serve", "--model-path", model, "--roles", roles, "--http-port", "0"];
        let device = if more.contains(&"--device") { &[][..] } else { &["--device", "cpu"] };
        let flags = flags.iter().chain(&["--http-host", "127.0.0.1"]).chain(device).chain(more);
        let flags = Cli::parse_from(flags.copied()).flags;
        let config = flags.resolve(&World::default()).unwrap();
        let (trigger, shutdown) = Shutdown::new();
        let served = triptych::serve(config, shutdown).await.unwrap();
        let url = format!("http://{}", served.address);
        Self { served, url, trigger }
    }

    /// The answer to a question about pictures.
    pub(crate) async fn ask(&self, question: &str, pictures: &[&str]) -> String {
        let (url, chat) = (self.url.clone(), chat(question, pictures));
        let ask = move || Client::connect(&url, None)?.ask(&chat);
        tokio::task::spawn_blocking(ask).await.unwrap().unwrap().text
    }

    /// Waits until no worker holds anything for any request.
    pub(crate) async fn wait_until_idle(&self, within: Duration) {
        eventually("everything is given back", within, || {
            self.served.workers.iter().all(|worker| {
                let view = worker.view();
                let stats = view.engine().stats();
                let blocks = stats.scheduler.blocks;
                blocks.owned + blocks.leased + blocks.quarantined == 0
                    && stats.scheduler.n_running + stats.scheduler.n_waiting == 0
                    && stats.embedding_bytes_used == 0
                    && view.n_leases() + view.n_rows_kept() == 0
            })
        })
        .await;
    }
}

pub(crate) fn chat(question: &str, pictures: &[&str]) -> Chat {
    let read = |name: &&str| {
        let path = demo_model().join("samples").join(name);
        let is_png = path.extension().is_some_and(|extension| extension == "png");
        let media_type = if is_png { "image/png" } else { "image/jpeg" };
        (media_type, std::fs::read(path).unwrap())
    };
    Chat {
        text: question.into(),
        pictures: pictures.iter().map(read).collect(),
        max_tokens: 80,
        ignore_eos: false,
    }
}

pub(crate) async fn eventually(what: &str, within: Duration, is_true: impl Fn() -> bool) {
    let give_up = Instant::now() + within.min(PATIENCE);
    while !is_true() {
        assert!(Instant::now() < give_up, "it did not happen in time that {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
