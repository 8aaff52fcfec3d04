//! Whole exchanges, each a file in `tests/transcripts`: what a client sends, what the backend says,
//! what the backend was asked, and what the client gets. Ids, times and random seeds are masked.
//!
//! Files are written by hand up to `planned`; the rest comes from a run with
//! `TRIPTYCH_WRITE_TRANSCRIPTS=1`, and is then read with care.

use crate::client::Server;
use crate::fake::{Fake, Step, TOKENIZER, admitted, finished, say};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use types::media::MediaSource;
use types::output::FinishReason;
use types::request::GenerateRequest;
use types::{Error, ErrorKind};

#[tokio::test]
async fn exchanges_are_as_written() {
    let mut n_checked = 0;
    let mut wrong = Vec::new();
    for path in files() {
        let written: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let found = run(&written).await;
        if std::env::var_os("TRIPTYCH_WRITE_TRANSCRIPTS").is_some() {
            std::fs::write(&path, serde_json::to_string_pretty(&found).unwrap() + "\n").unwrap();
        } else if found != written {
            let found = serde_json::to_string_pretty(&found).unwrap();
            wrong.push(format!("{}: now it is\n{found}", path.display()));
        }
        n_checked += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(n_checked >= 10, "only {n_checked} transcripts were found");
}

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        entries.filter(|path| path.extension() == Some("json".as_ref())).collect();
    files.sort();
    files
}

/// The transcript as this run made it.
async fn run(written: &Value) -> Value {
    let steps = written["backend"].as_array().unwrap().iter().map(step).collect();
    let fake = Fake::new(steps);
    let server = Server::start(&fake).await;
    let body = written["request"].to_string();
    let response = server.post("/v1/chat/completions", &[], body.as_bytes()).await;
    let mut found = Map::new();
    for given in ["about", "request", "backend"] {
        found.insert(given.to_owned(), written[given].clone());
    }
    let planned = fake.asked.lock().unwrap().first().map(|asked| shown(asked, &written["request"]));
    found.insert("planned".to_owned(), planned.into());
    found.insert("status".to_owned(), response.status.into());
    let is_stream = response.header("content-type") == Some("text/event-stream");
    match is_stream {
        true => found.insert("events".to_owned(), response.events().iter().map(event).collect()),
        false => found.insert("response".to_owned(), masked(response.json())),
    };
    Value::Object(found)
}

/// `"admitted"`, `{"say": [choice, text]}`, `{"finish": [choice, reason]}`, `{"fail": kind}`.
fn step(step: &Value) -> Step {
    let choice = |name: &str| step[name][0].as_u64().unwrap() as u32;
    if step == "admitted" {
        return admitted();
    }
    if step.get("say").is_some() {
        return say(choice("say"), step["say"][1].as_str().unwrap());
    }
    if step.get("finish").is_some() {
        let reasons = [FinishReason::Stop, FinishReason::Length];
        let reason = reasons.into_iter().find(|reason| {
            format!("{reason:?}").eq_ignore_ascii_case(step["finish"][1].as_str().unwrap())
        });
        return finished(choice("finish"), reason.unwrap());
    }
    let kind = step["fail"].as_str().unwrap();
    let kind = ErrorKind::ALL.into_iter().find(|found| format!("{found:?}") == kind).unwrap();
    Step::Fail(Error::new(kind, "words of the backend").at("messages[0]"))
}

/// What the backend was asked, in words.
fn shown(asked: &GenerateRequest, request: &Value) -> Value {
    let media = asked.media.iter().map(|item| {
        let source = match &item.source {
            MediaSource::Bytes(bytes) => format!("{} bytes", bytes.len()),
            MediaSource::Path(path) => format!("path {path}"),
            MediaSource::Url(url) => format!("url {url}"),
        };
        json!({
            "kind": format!("{:?}", item.kind),
            "source": source,
            "uuid": item.uuid,
            "options": item.processor_options,
            "param": item.param,
        })
    });
    let mut sampling = asked.sampling.clone();
    if request.get("seed").is_none() {
        sampling.seed = 0;
    }
    json!({
        "prompt": TOKENIZER.decode(&asked.prompt, false),
        "n_special_tokens": asked.prompt.iter().filter(|id| TOKENIZER.is_special(**id)).count(),
        "media": media.collect::<Vec<_>>(),
        "sampling": format!("{sampling:?}"),
        "cache_salt": asked.cache_salt,
    })
}

fn event((name, data): &(String, String)) -> Value {
    let data = serde_json::from_str(data).map_or_else(|_| data.as_str().into(), masked);
    match name.as_str() {
        "" => data,
        name => json!({"event": name, "data": data}),
    }
}

fn masked(mut object: Value) -> Value {
    for (name, mask) in
        [("id", json!("ID")), ("created", json!(0)), ("system_fingerprint", json!("fp"))]
    {
        if object.get(name).is_some() {
            object[name] = mask;
        }
    }
    object
}
