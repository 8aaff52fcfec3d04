//! The API over real HTTP, with a backend that says what the test wants.

mod access;
mod client;
mod fake;
mod lifecycle;
mod refusals;
mod routes;
mod streaming;
mod transcripts;

use client::{Response, Server};
use serde_json::{Value, json};

/// The smallest valid body, with `more` fields over it.
fn body(more: Value) -> Value {
    let mut body = json!({"model": fake::MODEL, "messages": [{"role": "user", "content": "Hi"}]});
    for (name, value) in more.as_object().cloned().unwrap_or_default() {
        body[name] = value;
    }
    body
}

/// Posts a chat.
async fn chat(server: &Server, body: &Value) -> Response {
    server.post("/v1/chat/completions", &[], body.to_string().as_bytes()).await
}
