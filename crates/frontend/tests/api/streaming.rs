//! Streamed answers: statuses before the first token, error events after it, and how tokens are
//! grouped.

use crate::client::Server;
use crate::fake::{Fake, MODEL, Step, admitted, fail, finished, hello, say};
use crate::{body, chat};
use serde_json::{Value, json};
use std::time::Duration;
use types::ErrorKind;
use types::output::FinishReason;

const SHORT: Duration = Duration::from_millis(60);

fn content(events: &[(String, String)]) -> Vec<String> {
    let piece = |(_, data): &(String, String)| {
        let chunk: Value = serde_json::from_str(data).ok()?;
        Some(chunk["choices"][0]["delta"]["content"].as_str()?.to_owned())
    };
    events.iter().filter_map(piece).collect()
}

/// A failure before the first token is a status in both kinds of answer, with the table's numbers.
#[tokio::test]
async fn failures_before_the_first_token_are_statuses() {
    let table = [
        (ErrorKind::InvalidInput, 400),
        (ErrorKind::ContextLengthExceeded, 400),
        (ErrorKind::Forbidden, 403),
        (ErrorKind::NotFound, 404),
        (ErrorKind::TooLarge, 413),
        (ErrorKind::UnsupportedMedia, 415),
        (ErrorKind::Overloaded, 429),
        (ErrorKind::Cancelled, 499),
        (ErrorKind::Internal, 500),
        (ErrorKind::MediaOrigin, 502),
        (ErrorKind::Unavailable, 503),
        (ErrorKind::PeerLost, 503),
        (ErrorKind::Timeout, 504),
    ];
    assert_eq!(table.len(), ErrorKind::ALL.len());
    for (kind, status) in table {
        for script in [vec![fail(kind)], vec![admitted(), fail(kind)]] {
            let server = Server::start(&Fake::new(script)).await;
            for stream in [false, true] {
                let response = chat(&server, &body(json!({ "stream": stream }))).await;
                assert_eq!(response.status, status, "{kind:?}");
                assert_eq!(response.json()["error"]["message"], "words of the backend");
                assert_eq!(response.header("retry-after").is_some(), status == 429);
            }
        }
    }
}

#[tokio::test]
async fn failures_after_the_first_token_are_events() {
    let script = vec![admitted(), say(0, "Hel"), Step::Pause(SHORT), fail(ErrorKind::PeerLost)];
    let server = Server::start(&Fake::new(script)).await;
    let response = chat(&server, &body(json!({"stream": true}))).await;
    assert_eq!(response.status, 200);
    let events = response.events();
    assert_eq!(content(&events).concat(), "Hel");
    let (name, data) = events.last().unwrap();
    let error: Value = serde_json::from_str(data).unwrap();
    assert_eq!(name, "error");
    assert_eq!(error["error"]["code"], "peer_lost");
    let whole = chat(&server, &body(json!({}))).await;
    assert_eq!(whole.status, 503, "a whole answer fails as a whole");
    assert!(server.counts("dynamo_frontend_disconnected_clients 0"));
}

/// An answer that breaks off without a word is a fault too, never an empty 200.
#[tokio::test]
async fn answers_that_break_off_are_errors() {
    for script in [vec![], vec![admitted()], vec![admitted(), say(0, "Hel")]] {
        let server = Server::start(&Fake::new(script)).await;
        let response = chat(&server, &body(json!({}))).await;
        assert_eq!(response.status, 500, "{}", response.body);
    }
}

#[tokio::test]
async fn every_token_is_an_event_and_late_ones_do_not_wait() {
    let ready = vec![
        admitted(),
        say(0, "a"),
        say(0, "b"),
        Step::Pause(SHORT),
        say(0, "c"),
        Step::Pause(SHORT),
        say(0, "d"),
        say(0, "e"),
        finished(0, FinishReason::Stop),
    ];
    let server = Server::start(&Fake::new(ready)).await;
    let response = chat(&server, &body(json!({"stream": true}))).await;
    assert_eq!(content(&response.events()), ["", "a", "b", "c", "d", "e"]);
    // Those that are ready together share a write: the beginning alone, a pause, and the end.
    assert_eq!(response.n_chunks, 3);
    assert_eq!(response.events().last().unwrap().1, "[DONE]");
}

#[tokio::test]
async fn a_stop_string_ends_the_answer_and_the_work() {
    let script = vec![admitted(), say(0, "one two"), say(0, " three"), Step::Hang];
    let fake = Fake::new(script);
    let server = Server::start(&fake).await;
    for stream in [false, true] {
        let response = chat(&server, &body(json!({"stop": "o t", "stream": stream}))).await;
        assert_eq!(response.status, 200);
        let text = match stream {
            true => content(&response.events()).concat(),
            false => response.json()["choices"][0]["message"]["content"].as_str().unwrap().into(),
        };
        assert_eq!(text, "one tw");
    }
    assert_eq!(fake.n_cancelled(), 2, "both streams were dropped");
}

/// The backend is told of each choice that a stop string ends before the others; what still comes
/// of it is not shown.
#[tokio::test]
async fn a_stop_string_ends_one_choice_and_its_work() {
    let script = vec![
        admitted(),
        say(0, "one two"),
        say(1, "and"),
        say(0, " three"),
        say(0, " four"),
        Step::Pause(SHORT),
        say(1, " so on"),
        finished(0, FinishReason::Length),
        finished(1, FinishReason::Length),
    ];
    let fake = Fake::new(script);
    let server = Server::start(&fake).await;
    let response = chat(&server, &body(json!({"stop": "o t", "n": 2}))).await;
    let choices = &response.json()["choices"];
    let ends: Vec<_> = [0, 1].map(|idx| &choices[idx]).into_iter().collect();
    assert_eq!(ends[0]["message"]["content"], "one tw");
    assert_eq!(ends[0]["finish_reason"], "stop");
    assert_eq!(ends[1]["message"]["content"], "and so on");
    assert_eq!(ends[1]["finish_reason"], "length");
    let id = fake.asked.lock().unwrap()[0].id;
    assert_eq!(*fake.finished.lock().unwrap(), [(id, 0)]);
}

/// Log probabilities are those of the tokens of the text, the one that is cut by a stop string
/// included, those of the stop string itself not.
#[tokio::test]
async fn logprobs_end_where_the_text_does() {
    let spoken = "one two three";
    let script = vec![
        admitted(),
        say(0, "one"),
        say(0, " two"),
        Step::Pause(SHORT),
        say(0, " three"),
        finished(0, FinishReason::Length),
    ];
    let server = Server::start(&Fake::new(script)).await;
    for (stop, text) in [("o t", "one tw"), (" tw", "one"), ("one", ""), ("never", spoken)] {
        for stream in [false, true] {
            let more = json!({"stop": stop, "logprobs": true, "stream": stream});
            let response = chat(&server, &body(more)).await;
            let objects: Vec<Value> = match stream {
                true => {
                    response.events().iter().flat_map(|(_, d)| serde_json::from_str(d)).collect()
                }
                false => vec![response.json()],
            };
            let entries =
                objects.iter().filter_map(|it| it["choices"][0]["logprobs"]["content"].as_array());
            let tokens = entries.flatten().map(|entry| entry["token"].as_str().unwrap().to_owned());
            let tokens: Vec<String> = tokens.collect();
            let begins = |idx: usize| tokens[..idx].concat().len();
            let all = tokens.concat();
            assert!(spoken.starts_with(&all) && all.starts_with(text), "{stop:?}: {tokens:?}");
            assert!(tokens.is_empty() == text.is_empty(), "{stop:?}: {tokens:?}");
            assert!((0..tokens.len()).all(|idx| begins(idx) < text.len()), "{stop:?}: {tokens:?}");
        }
    }
}

#[tokio::test]
async fn silence_has_a_deadline() {
    let cfg = config::FrontendConfig {
        first_token_deadline: SHORT,
        idle_stream_deadline: SHORT,
        ..Default::default()
    };
    let check = async |script: Vec<Step>| {
        let fake = Fake::new(script);
        let server = Server::configured(&fake, cfg.clone()).await;
        let response = chat(&server, &body(json!({"stream": true}))).await;
        assert_eq!(fake.n_cancelled(), 1);
        response
    };
    assert_eq!(check(vec![Step::Hang]).await.status, 504);
    assert_eq!(check(vec![admitted(), Step::Hang]).await.status, 504);
    let begun = check(vec![admitted(), say(0, "a"), Step::Hang]).await;
    assert_eq!(begun.status, 200);
    assert!(begun.events().last().unwrap().1.contains("\"timeout\""), "{}", begun.body);
}

/// Seeds that clients leave out differ from request to request; those given are passed on.
#[tokio::test]
async fn seeds() {
    let fake = Fake::new(hello());
    let server = Server::start(&fake).await;
    for more in [json!({}), json!({}), json!({"seed": 7}), json!({"seed": -1})] {
        assert_eq!(chat(&server, &body(more)).await.status, 200);
    }
    let asked = fake.asked.lock().unwrap();
    let seeds: Vec<_> = asked.iter().map(|asked| asked.sampling.seed).collect();
    assert_ne!(seeds[0], seeds[1]);
    assert_eq!(seeds[2..], [7, u64::MAX]);
    assert!(asked.iter().all(|asked| asked.model == MODEL));
}
