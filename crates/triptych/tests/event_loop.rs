//! Pictures that take long to decode hold up nobody else: a server on one thread goes on with
//! everything else meanwhile.

mod common;
#[path = "bad_input/pictures.rs"]
#[expect(dead_code, reason = "only large pictures are wanted here")]
mod pictures;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::TestServer;
use common::cluster::post_chat;
use futures::future::join_all;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Side of a picture that takes longer to decode than anybody may be held up.
const SIDE: u32 = 8192;

/// The thread must be free again after this, on a machine that builds beside it.
const HELD_UP_MAX: Duration = Duration::from_millis(300);

/// Time between two looks at whether the thread is free.
const LOOK_PAUSE: Duration = Duration::from_millis(5);

fn about_a_picture() -> Value {
    let data = STANDARD.encode(pictures::black_png(SIDE, SIDE));
    let url = format!("data:image/png;base64,{data}");
    json!({"model": "shapes", "max_tokens": 1, "messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": url}}]}]})
}

/// The longest time that this thread, on which the server runs, was held up while `bodies` were
/// answered.
async fn longest_wait(server: &TestServer, bodies: Vec<Value>) -> Duration {
    let ask = |body: Value| {
        let url = server.url.clone();
        tokio::task::spawn_blocking(move || post_chat(&url, &body))
    };
    let mut all = Box::pin(join_all(bodies.into_iter().map(ask)));
    let mut longest = Duration::ZERO;
    loop {
        let began = Instant::now();
        tokio::select! {
            answers = &mut all => {
                for answer in answers {
                    let (status, body) = answer.unwrap();
                    assert_eq!(status, 200, "{body}");
                }
                return longest;
            }
            () = tokio::time::sleep(LOOK_PAUSE) => longest = longest.max(began.elapsed()),
        }
    }
}

#[tokio::test]
async fn pictures_that_are_decoded_hold_up_nobody() {
    let server = TestServer::start("agg", &["--engine", "mock", "--mock-step-us", "0"]).await;
    let longest = longest_wait(&server, vec![about_a_picture(); 2]).await;
    println!("held up for {longest:.2?} at most");
    assert!(longest < HELD_UP_MAX, "{longest:?}");
}
