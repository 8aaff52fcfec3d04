//! Different pictures get different, right answers, over HTTP, in every topology of one process.

mod common;

use common::{TOPOLOGIES, TestServer, demo_model};
use futures::future::join_all;
use serde_json::{Value, json};

/// A question, the pictures it is about, and the right answer.
struct Sample {
    question: String,
    pictures: Vec<String>,
    answer: String,
}

fn samples() -> Vec<Sample> {
    let text = std::fs::read_to_string(demo_model().join("samples/samples.json")).unwrap();
    let samples: Vec<Value> = serde_json::from_str(&text).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let sample = |sample: &Value| Sample {
        question: text(&sample["question"]),
        pictures: sample["pictures"].as_array().unwrap().iter().map(text).collect(),
        answer: text(&sample["answer"]),
    };
    samples.iter().map(sample).collect()
}

async fn check(server: &TestServer, sample: &Sample) {
    let pictures: Vec<&str> = sample.pictures.iter().map(String::as_str).collect();
    let answer = server.ask(&sample.question, &pictures).await;
    assert_eq!(answer, sample.answer, "{} {pictures:?}", sample.question);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sample_is_answered_right_alone_again_and_all_at_once() {
    let samples = samples();
    assert!(samples.len() >= 6);
    for roles in TOPOLOGIES {
        let server = TestServer::start(roles, &[]).await;
        for sample in &samples {
            check(&server, sample).await;
            // The second time most of the prompt comes from the cache.
            check(&server, sample).await;
        }
        join_all((0..6).flat_map(|_| &samples).map(|sample| check(&server, sample))).await;
        server.wait_until_idle(std::time::Duration::from_secs(2)).await;
    }
}

/// Posts a chat and gives status and body.
async fn post(server: &TestServer, body: Value) -> (u16, Value) {
    let url = format!("{}/v1/chat/completions", server.url);
    let post = move || {
        let config = ureq::Agent::config_builder().http_status_as_error(false).proxy(None);
        let agent = config.build().new_agent();
        let request = agent.post(url).header("content-type", "application/json");
        let mut response = request.send(body.to_string()).unwrap();
        let text = response.body_mut().read_to_string().unwrap();
        (response.status().as_u16(), serde_json::from_str(&text).unwrap())
    };
    tokio::task::spawn_blocking(post).await.unwrap()
}

fn about_a_file(path: &str) -> Value {
    json!({"model": "shapes", "messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": path}},
        {"type": "text", "text": "What number is written?"},
    ]}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn local_pictures_are_read_under_the_allowed_folder_only() {
    let samples = demo_model().canonicalize().unwrap().join("samples");
    let inside = samples.join("forty-two.png").to_str().unwrap().to_owned();
    let outside = samples.join("../config.json").to_str().unwrap().to_owned();
    for roles in TOPOLOGIES {
        let flags = ["--allowed-local-media-path", samples.to_str().unwrap()];
        let server = TestServer::start(roles, &flags).await;
        let (status, body) = post(&server, about_a_file(&inside)).await;
        assert_eq!((status, body["choices"][0]["message"]["content"].as_str()), (200, Some("42")));
        let (status, body) = post(&server, about_a_file(&outside)).await;
        assert_eq!(status, 403, "{body}");
        let closed = TestServer::start(roles, &[]).await;
        let (status, body) = post(&closed, about_a_file(&inside)).await;
        assert_eq!(status, 403, "{body}");
        assert_eq!(body["error"]["param"], "messages[0].content[0].image_url");
    }
}

fn drawn(seed: u64) -> Value {
    json!({"model": "shapes", "seed": seed, "temperature": 1.5, "max_tokens": 24, "n": 3,
           "ignore_eos": true, "logprobs": true, "top_logprobs": 2,
           "messages": [{"role": "user", "content": "Tell me about shapes and numbers."}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_gives_the_same_answer_whatever_else_is_running() {
    for roles in TOPOLOGIES {
        let server = TestServer::start(roles, &[]).await;
        let (status, alone) = post(&server, drawn(7)).await;
        assert_eq!(status, 200, "{alone}");
        let crowd =
            join_all((0..12).map(|i| post(&server, drawn(if i == 5 { 7 } else { i })))).await;
        assert_eq!(crowd[5].1["choices"], alone["choices"], "{roles}");
        assert_ne!(crowd[4].1["choices"], alone["choices"], "another seed, another answer");
        let choices = alone["choices"].as_array().unwrap();
        assert_ne!(choices[0]["message"], choices[1]["message"], "choices differ");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_text_refuses_pictures_as_the_clients_mistake() {
    for roles in TOPOLOGIES {
        let server = TestServer::start(roles, &["--modality", "text"]).await;
        let (status, body) =
            post(&server, about_a_file("data:image/png;base64,iVBORw0KGgo=")).await;
        assert_eq!(status, 400, "{body}");
        assert_eq!(body["error"]["param"], "messages[0].content[0].image_url");
        let hello = json!({"model": "shapes", "max_tokens": 5,
                           "messages": [{"role": "user", "content": "Hello!"}]});
        let (status, body) = post(&server, hello).await;
        assert_eq!(status, 200, "{body}");
    }
}
