//! The endpoints besides chat, request ids, and what HTTP itself can do wrong.

use crate::client::{Server, request};
use crate::fake::{Fake, MODEL, hello};
use crate::{body, chat};
use serde_json::json;

#[tokio::test]
async fn models_are_listed_and_found() {
    let fake = Fake::with_models(hello(), &[(MODEL, None), ("other", Some("decode"))]);
    let server = Server::start(&fake).await;
    let one = |name: &str| {
        json!({
            "id": name,
            "object": "model",
            "created": 1_700_000_000,
            "owned_by": "triptych",
        })
    };
    let list = server.get("/v1/models").await;
    assert_eq!(list.json(), json!({"object": "list", "data": [one(MODEL), one("other")]}));
    assert_eq!(server.get("/v1/models/tiny/vl").await.json(), one(MODEL));
    assert_eq!(server.get("/v1/models/tiny%2Fvl").await.json(), one(MODEL));
    let absent = server.get("/v1/models/absent").await;
    assert_eq!((absent.status, &absent.json()["error"]["code"]), (404, &json!("model_not_found")));
}

#[tokio::test]
async fn an_unknown_model_is_a_404() {
    let server = Server::start(&Fake::new(hello())).await;
    let response = chat(&server, &body(json!({"model": "absent"}))).await;
    let error = response.json()["error"].clone();
    assert_eq!((response.status, &error["code"]), (404, &json!("model_not_found")));
    assert_eq!(error["param"], "model");
}

#[tokio::test]
async fn health_is_readiness() {
    let check = async |models: &[(&str, Option<&str>)], status: u16, words: &str| {
        let server = Server::start(&Fake::with_models(hello(), models)).await;
        let health = server.get("/health").await;
        assert_eq!(health.status, status, "{models:?}");
        assert!(health.body.contains(words), "{}", health.body);
        assert_eq!(server.get("/live").await.status, 200, "alive all the same");
    };
    check(&[(MODEL, None)], 200, "ready").await;
    check(&[("other", Some("decode")), (MODEL, None)], 200, "ready").await;
    check(&[(MODEL, Some("decode"))], 503, "tiny/vl: no decode worker").await;
    check(&[], 503, "no worker has registered").await;
}

#[tokio::test]
async fn metrics_count_requests() {
    let server = Server::start(&Fake::new(hello())).await;
    chat(&server, &body(json!({}))).await;
    chat(&server, &body(json!({"max_tokens": 199}))).await;
    let text = server.get("/metrics").await.body;
    let ended = |status: &str| {
        format!(
            "dynamo_frontend_requests_total{{model=\"tiny/vl\",endpoint=\"chat_completions\",\
             request_type=\"unary\",status=\"{status}\"}} 1"
        )
    };
    for line in [
        &ended("success"),
        &ended("error"),
        "dynamo_frontend_inflight_requests{model=\"tiny/vl\"} 0",
        "dynamo_frontend_queued_requests{model=\"tiny/vl\"} 0",
        "dynamo_frontend_disconnected_clients 0",
        "dynamo_frontend_input_sequence_tokens_sum{model=\"tiny/vl\"} 21.0",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
    }
}

#[tokio::test]
async fn wrong_addresses_and_methods_have_json_bodies() {
    let server = Server::start(&Fake::new(hello())).await;
    let check = async |method: &str, path: &str, status: u16, code: &str| {
        let response = server.exchange(&request(method, path, &[], b"")).await;
        assert_eq!(response.status, status, "{method} {path}");
        assert_eq!(response.json()["error"]["code"], code);
        assert_eq!(response.header("content-type"), Some("application/json"));
        assert!(response.header("x-request-id").is_some());
    };
    check("GET", "/v1/nothing", 404, "unknown_url").await;
    check("GET", "/", 404, "unknown_url").await;
    check("GET", "/v1/chat/completions", 405, "method_not_supported").await;
    check("DELETE", "/v1/models", 405, "method_not_supported").await;
}

#[tokio::test]
async fn bodies_and_headers_over_their_limits() {
    let mut cfg = config::FrontendConfig::default();
    cfg.limits.body_bytes_max = 1000;
    let server = Server::configured(&Fake::new(hello()), cfg).await;
    let announced = server.post("/v1/chat/completions", &[], &[b' '; 1001]).await;
    assert_eq!(announced.status, 413);
    assert_eq!(announced.json()["error"]["code"], "too_large");
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\
                content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    let unannounced = format!("{head}3e9\r\n{}\r\n0\r\n\r\n", " ".repeat(1001));
    assert_eq!(server.exchange(unannounced.as_bytes()).await.status, 413);
    let long = "x".repeat(128 << 10);
    let headers = server.exchange(&request("GET", "/live", &[("x-long", &long)], b"")).await;
    assert_eq!(headers.status, 431);
}

#[tokio::test]
async fn request_ids_come_back() {
    let server = Server::start(&Fake::new(hello())).await;
    let ask = async |given: &str| {
        let headers = [("x-request-id", given)];
        let response = server.exchange(&request("GET", "/live", &headers, b"")).await;
        response.header("x-request-id").unwrap().to_owned()
    };
    assert_eq!(ask("my-id-7").await, "my-id-7");
    for refused in ["", "two words", &"x".repeat(129)] {
        let made = ask(refused).await;
        assert_eq!(made.len(), 32, "{refused:?} gave {made:?}");
    }
    assert_ne!(ask("").await, ask("").await);
}

#[tokio::test]
async fn traces_go_on_or_begin() {
    let fake = Fake::new(hello());
    let server = Server::start(&fake).await;
    let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let bytes = body(json!({})).to_string();
    for header in [given, "nonsense"] {
        server.post("/v1/chat/completions", &[("traceparent", header)], bytes.as_bytes()).await;
    }
    let asked = fake.asked.lock().unwrap();
    assert_eq!(asked[0].trace, given);
    assert_eq!(asked[1].trace.len(), given.len());
    assert!(asked[1].trace.contains(&asked[1].id.to_string()), "a new trace has the request's id");
}
