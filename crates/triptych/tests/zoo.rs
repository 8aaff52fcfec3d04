//! Every architecture answers alike in every topology of one process, over HTTP, on the tiny
//! checkpoints of the goldens; prompts have as many tokens as in the reference.

mod common;

use base64::Engine;
use common::{TOPOLOGIES, TestServer};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Tiny checkpoints, and the prompts of their goldens.
const ZOO: [(&str, &str); 5] = [
    ("qwen2_vl/checkpoint", "qwen2_vl/model/index.json"),
    ("qwen2_vl/checkpoint_old", "qwen2_vl/model/index_old.json"),
    ("llava/checkpoint", "llava/model/index.json"),
    ("llava_next/checkpoint", "llava_next/model/index.json"),
    ("llava_next/checkpoint_vicuna", "llava_next/model/index_vicuna.json"),
];

/// Small pools: a server of every checkpoint runs in one test.
const FLAGS: [&str; 4] = [
    "--served-model-name",
    "tiny",
    "--override-engine-args",
    r#"{"kv_cache_config": {"max_tokens": 4096}, "max_num_tokens": 96}"#,
];

/// Tokens of an answer.
const N_TOKENS: u32 = 24;

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens")
}

fn prompts(index: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(goldens().join(index)).unwrap();
    let index: Value = serde_json::from_str(&text).unwrap();
    index["prompts"].as_array().unwrap().clone()
}

/// The chat of a golden prompt: its messages, with pictures of the same sizes that show `seed`.
fn chat(prompt: &Value, seed: u64) -> Value {
    let mut messages = prompt["messages"].clone();
    let mut pictures = prompt["pictures"].as_array().unwrap().iter();
    // What a client calls its pictures must not stand for what they show.
    let uuids = vec!["mine"; pictures.len()];
    let contents =
        messages.as_array_mut().unwrap().iter_mut().map(|message| &mut message["content"]);
    for part in contents.filter_map(Value::as_array_mut).flatten() {
        if part["type"] == "image" {
            let url = data_url(pictures.next().unwrap(), seed);
            *part = json!({"type": "image_url", "image_url": {"url": url}});
        }
    }
    json!({"model": "tiny", "messages": messages, "max_tokens": N_TOKENS, "ignore_eos": true,
           "multi_modal_uuids": uuids, "temperature": 0, "logprobs": true, "top_logprobs": 3})
}

/// A bitmap of the size of a golden's picture.
fn data_url(picture: &Value, seed: u64) -> String {
    let side = |name: &str| u32::try_from(picture[name].as_u64().unwrap()).unwrap();
    let (width, height) = (side("width"), side("height"));
    let stride = (width * 3).next_multiple_of(4);
    let header: Vec<u8> = [54 + stride * height, 0, 54, 40, width, height, 24 << 16 | 1]
        .into_iter()
        .chain([0; 6])
        .flat_map(u32::to_le_bytes)
        .collect();
    let mut state = seed;
    let noise = (0..stride * height).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(seed | 1);
        (state >> 56) as u8
    });
    let file: Vec<u8> = b"BM".iter().copied().chain(header).chain(noise).collect();
    let data = base64::engine::general_purpose::STANDARD.encode(file);
    format!("data:image/bmp;base64,{data}")
}

async fn post(server: &TestServer, body: Value) -> Value {
    let url = format!("{}/v1/chat/completions", server.url);
    let post = move || {
        let config = ureq::Agent::config_builder().http_status_as_error(false).proxy(None);
        let request = config.build().new_agent().post(url);
        let request = request.header("content-type", "application/json");
        let mut response = request.send(body.to_string()).unwrap();
        let text = response.body_mut().read_to_string().unwrap();
        assert_eq!(response.status().as_u16(), 200, "{text}");
        serde_json::from_str(&text).unwrap()
    };
    tokio::task::spawn_blocking(post).await.unwrap()
}

/// Answers to every prompt about two sets of pictures, the second time from the cache.
async fn answers(checkpoint: &str, index: &str, roles: &str) -> Vec<Value> {
    let server = TestServer::start_model(&goldens().join(checkpoint), roles, &FLAGS).await;
    let mut answers = Vec::new();
    for prompt in prompts(index) {
        let mut of_prompt = Vec::new();
        for seed in [1, 2] {
            let first = post(&server, chat(&prompt, seed)).await;
            let n_tokens = prompt["input_ids"].as_array().unwrap().len();
            assert_eq!(
                first["usage"]["prompt_tokens"], n_tokens,
                "{checkpoint}: {}",
                prompt["name"]
            );
            assert_eq!(first["usage"]["completion_tokens"], N_TOKENS);
            let again = post(&server, chat(&prompt, seed)).await;
            assert_eq!(again["choices"], first["choices"], "{checkpoint}: {}", prompt["name"]);
            of_prompt.push(first["choices"].clone());
        }
        let has_pictures = !prompt["pictures"].as_array().unwrap().is_empty();
        let differ = of_prompt[0] != of_prompt[1];
        assert_eq!(differ, has_pictures, "{checkpoint}: {}: pictures must matter", prompt["name"]);
        answers.extend(of_prompt);
    }
    server.wait_until_idle(Duration::from_secs(2)).await;
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn every_architecture_answers_alike_in_every_topology() {
    for (checkpoint, index) in ZOO {
        let [together, apart] = TOPOLOGIES;
        let expected = answers(checkpoint, index, together).await;
        assert!(expected.len() >= 4);
        let found = answers(checkpoint, index, apart).await;
        for (idx, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(found, expected, "{checkpoint}: answer {idx} in {apart}");
        }
    }
}
