//! One real request opens exactly the spans that `docs/life-of-a-request.md` lists.

mod common;

use common::TestServer;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tracing::span::{Attributes, Id};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

/// Remembers the name of every span that opens.
#[derive(Clone, Default)]
struct Names(Arc<Mutex<BTreeSet<String>>>);

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Names {
    fn on_new_span(&self, attributes: &Attributes<'_>, _id: &Id, _ctx: Context<'_, S>) {
        let metadata = attributes.metadata();
        let ours = ["router", "worker", "engine", "frontend"];
        if ours.iter().any(|name| metadata.target().starts_with(name)) {
            self.0.lock().unwrap().insert(metadata.name().to_owned());
        }
    }
}

/// The lines of the block that opens with "```" and `title`.
fn listed(title: &str) -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/life-of-a-request.md");
    let text = std::fs::read_to_string(path).unwrap();
    let block = text.split(&format!("```{title}\n")).nth(1).expect("the document has the block");
    let block = block.split("```").next().unwrap();
    block.lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_opens_the_spans_of_the_document() {
    let names = Names::default();
    let subscriber = tracing_subscriber::registry().with(names.clone());
    tracing::subscriber::set_global_default(subscriber).unwrap();
    for (roles, title) in [("agg", "spans of one worker"), ("e,p,d", "spans of three roles")] {
        let server = TestServer::start(roles, &[]).await;
        names.0.lock().unwrap().clear();
        server.ask("What is in the picture?", &["four-shapes.jpg"]).await;
        let opened = names.0.lock().unwrap().clone();
        assert_eq!(opened, listed(title), "{roles}");
    }
}
