//! The evaluation against a server that knows the answers, one that does not, and one that fails.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bench::client::{Chat, Client};
use bench::eval::questions::{Expected, Kind, question};
use bench::eval::table::Requirement;
use bench::eval::{Args, chat, evaluate};
use bench::pictures::digits::Typefaces;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;

const N: usize = 6;
const SEED: u64 = 3;

/// Words and pictures of a request.
type Asked = (String, Vec<Vec<u8>>);
type Answer = Arc<dyn Fn(&Asked) -> Result<String, u16> + Send + Sync>;

/// Serves chat completions on a free port until the process ends; answers with its address.
fn serve(answer: Answer) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = Arc::clone(&answer);
            std::thread::spawn(move || respond(stream, &answer));
        }
    });
    format!("http://{address}")
}

fn respond(mut stream: TcpStream, answer: &Answer) -> std::io::Result<()> {
    let (path, body) = read_request(&stream)?;
    let (status, text) = if path == "/v1/models" {
        (200, json!({"data": [{"id": "fake"}]}).to_string())
    } else {
        match answer(&asked(&body)) {
            Ok(text) => (200, events(&text)),
            Err(status) => (status, json!({"error": {"message": "sorry"}}).to_string()),
        }
    };
    write!(stream, "HTTP/1.1 {status} X\r\nconnection: close\r\n\r\n{text}")
}

fn read_request(stream: &TcpStream) -> std::io::Result<(String, Value)> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let path = first.split(' ').nth(1).unwrap_or("").to_string();
    let mut n_body = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim().to_ascii_lowercase().split_once(": ") {
            Some(("content-length", value)) => n_body = value.parse().unwrap_or(0),
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; n_body];
    reader.read_exact(&mut body)?;
    Ok((path, serde_json::from_slice(&body).unwrap_or_default()))
}

/// What a request asks; panics on anything but what the API's schema has.
fn asked(body: &Value) -> Asked {
    assert_eq!((body["model"].as_str(), body["stream"].as_bool()), (Some("fake"), Some(true)));
    let parts = body["messages"][0]["content"].as_array().expect("parts");
    let urls = parts.iter().filter_map(|part| part["image_url"]["url"].as_str());
    let pictures = urls.map(|url| {
        let (head, data) = url.split_once(',').expect("a data URL");
        assert!(head == "data:image/png;base64" || head == "data:image/jpeg;base64", "{head}");
        STANDARD.decode(data).expect("base64")
    });
    let text = parts.iter().find_map(|part| part["text"].as_str()).expect("text");
    (text.into(), pictures.collect())
}

/// The answer in two pieces.
fn events(text: &str) -> String {
    let (one, other) = text.split_at(text.len() / 2);
    let piece =
        |text: &str| format!("data: {}\n\n", json!({"choices": [{"delta": {"content": text}}]}));
    let usage = json!({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}});
    format!("{}{}data: {usage}\n\ndata: [DONE]\n\n", piece(one), piece(other))
}

/// The right answers to what the evaluation will ask.
fn right_answers() -> HashMap<Asked, String> {
    let typefaces = Typefaces::installed().unwrap_or_else(|error| panic!("{error}"));
    let all = Kind::ALL.into_iter().flat_map(|kind| (0..N).map(move |idx| (kind, idx)));
    let entry = |(kind, idx)| {
        let question = question(kind, SEED, idx, &typefaces);
        let Chat { text, pictures, .. } = chat(&question);
        let answer = match question.expected {
            Expected::Text(text) => text,
            Expected::Words(words) => words.join(" "),
        };
        ((text, pictures.into_iter().map(|(_, bytes)| bytes).collect()), answer)
    };
    all.map(entry).collect()
}

fn args(url: String, save_wrong: Option<PathBuf>) -> Args {
    Args {
        url,
        model: None,
        n: N,
        seed: SEED,
        concurrency: 3,
        require: 97.0,
        require_number: 96.0,
        save_wrong,
    }
}

const REQUIREMENT: Requirement = Requirement { percent: 97.0, number: 96.0 };

#[test]
fn a_server_that_knows_passes() {
    let answers = right_answers();
    let knows: Answer = Arc::new(move |asked| Ok(answers[asked].clone()));
    let table = evaluate(&args(serve(knows), None)).expect("an evaluation");
    assert!(table.short_of(REQUIREMENT).is_empty(), "{table}");
    assert!(Kind::ALL.into_iter().all(|kind| table.of(kind).n == N), "{table}");
}

#[test]
fn a_server_that_swaps_pictures_fails() {
    let answers: Vec<String> = right_answers().into_values().collect();
    let guesses: Answer =
        Arc::new(move |(text, _)| Ok(answers[text.len() % answers.len()].clone()));
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("wrong");
    let table = evaluate(&args(serve(guesses), Some(folder.clone()))).expect("an evaluation");
    let short = table.short_of(REQUIREMENT);
    assert!(short.iter().any(|kind| kind.starts_with("describe")), "{table}");
    let saved = std::fs::read_dir(&folder).expect("what went wrong is saved").count();
    let n_wrong: usize = Kind::ALL.into_iter().map(|kind| N - table.of(kind).n_right).sum();
    assert!(saved >= n_wrong, "{saved} files of {n_wrong} wrong answers");
}

#[test]
fn a_request_that_fails_is_not_right() {
    let table = evaluate(&args(serve(Arc::new(|_| Err(503))), None)).expect("an evaluation");
    assert_eq!(table.short_of(REQUIREMENT).len(), Kind::ALL.len());
    let shown = table.to_string();
    assert!(shown.contains("6 requests failed") && shown.contains("503"), "{shown}");
}

#[test]
fn a_missing_server_is_said_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    let error = Client::connect(&url, None).expect_err("nobody listens");
    assert!(error.starts_with(&url), "{error}");
}
