//! A client that leaves takes its work along, from every stage, within a second.

mod common;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::{TOPOLOGIES, TestServer, chat};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// All that a request held must be back after this.
const WITHIN: Duration = Duration::from_secs(1);

fn body() -> String {
    let picture = chat("", &["four-shapes.jpg"]).pictures.remove(0).1;
    // An endless answer about a picture, so that only the client's leaving ends it.
    let url = format!("data:image/jpeg;base64,{}", STANDARD.encode(picture));
    serde_json::json!({
        "model": "shapes", "stream": true, "max_tokens": 1500, "ignore_eos": true,
        "messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": "What is in the picture?"},
        ]}],
    })
    .to_string()
}

/// Sends the request and leaves after `wait`.
async fn leave_after(server: &TestServer, body: &str, wait: Duration) {
    let mut socket = TcpStream::connect(server.served.address).await.unwrap();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(body.as_bytes()).await.unwrap();
    tokio::time::sleep(wait).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whenever_a_client_leaves_everything_comes_back() {
    let body = body();
    for roles in TOPOLOGIES {
        let server = TestServer::start(roles, &[]).await;
        // From before the picture is read to the middle of the answer.
        for wait_ms in [0, 1, 2, 4, 8, 16, 32, 64, 128, 256] {
            leave_after(&server, &body, Duration::from_millis(wait_ms)).await;
            server.wait_until_idle(WITHIN).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_would_have_gone_on() {
    let server = TestServer::start("agg", &[]).await;
    let body = body();
    let mut socket = TcpStream::connect(server.served.address).await.unwrap();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.matches("\"content\"").count() > 100, "{answer}");
    assert!(answer.contains("data: [DONE]"));
}
