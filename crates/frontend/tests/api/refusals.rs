//! Every field of a request: what is refused, with which words, and what is accepted as saying
//! nothing.

use crate::client::Server;
use crate::fake::{Fake, MODEL, hello};
use crate::{body, chat};
use serde_json::{Value, json};

/// Checks that `more` over a valid body is refused with 400, naming `param`, with `code`.
async fn check(server: &Server, more: Value, param: &str, code: &str) {
    let response = chat(server, &body(more.clone())).await;
    assert_eq!(response.status, 400, "{more}: {}", response.body);
    let error = &response.json()["error"];
    assert_eq!(error["param"], param, "{more}: {error}");
    assert_eq!(error["code"], code, "{more}: {error}");
    assert_eq!(error["type"], "invalid_request_error", "{more}");
    assert!(error["message"].as_str().unwrap().contains(param), "{more}: {error}");
}

async fn check_all(table: &[(Value, &str, &str)]) {
    let server = Server::start(&Fake::new(hello())).await;
    for (more, param, code) in table {
        check(&server, more.clone(), param, code).await;
    }
}

#[tokio::test]
async fn values_that_cannot_be_honoured() {
    check_all(&[
        (json!({"tools": [{"type": "function"}]}), "tools", "unsupported_value"),
        (json!({"tool_choice": "required"}), "tool_choice", "unsupported_value"),
        (json!({"tool_choice": {"type": "function"}}), "tool_choice", "unsupported_value"),
        (json!({"functions": [{"name": "f"}]}), "functions", "unsupported_value"),
        (json!({"function_call": {"name": "f"}}), "function_call", "unsupported_value"),
        (
            json!({"response_format": {"type": "json_object"}}),
            "response_format",
            "unsupported_value",
        ),
        (json!({"response_format": {}}), "response_format", "unsupported_value"),
        (json!({"store": true}), "store", "unsupported_value"),
        (json!({"modalities": ["text", "audio"]}), "modalities", "unsupported_value"),
        (json!({"audio": {"voice": "x"}}), "audio", "unsupported_value"),
        (json!({"prediction": {"type": "content"}}), "prediction", "unsupported_value"),
        (json!({"reasoning_effort": "high"}), "reasoning_effort", "unsupported_value"),
        (json!({"verbosity": "low"}), "verbosity", "unsupported_value"),
        (json!({"web_search_options": {}}), "web_search_options", "unsupported_value"),
        (json!({"service_tier": "gold"}), "service_tier", "unsupported_value"),
        (json!({"prompt_cache_retention": "24h"}), "prompt_cache_retention", "unsupported_value"),
        (
            json!({"media_io_kwargs": {"video": {"num_frames": 3}}}),
            "media_io_kwargs",
            "unsupported_value",
        ),
        (json!({"stream_options": {"include_usage": true}}), "stream_options", "unsupported_value"),
        (
            json!({"stream": true, "stream_options": {"include_obfuscation": true}}),
            "stream_options.include_obfuscation",
            "unsupported_value",
        ),
    ])
    .await;
}

#[tokio::test]
async fn wrong_types_and_bounds() {
    check_all(&[
        (json!({"model": 3}), "model", "invalid_type"),
        (json!({"model": null}), "model", "missing_required_parameter"),
        (json!({"temperature": "hot"}), "temperature", "invalid_type"),
        (json!({"temperature": 2.1}), "temperature", "decimal_above_max_value"),
        (json!({"temperature": -0.1}), "temperature", "decimal_below_min_value"),
        (json!({"top_p": 1.5}), "top_p", "decimal_above_max_value"),
        (json!({"top_k": -2}), "top_k", "integer_below_min_value"),
        (json!({"top_k": 1.5}), "top_k", "invalid_type"),
        (json!({"min_p": 1.1}), "min_p", "decimal_above_max_value"),
        (json!({"repetition_penalty": 0}), "repetition_penalty", "decimal_below_min_value"),
        (json!({"presence_penalty": 3}), "presence_penalty", "decimal_above_max_value"),
        (json!({"frequency_penalty": -3}), "frequency_penalty", "decimal_below_min_value"),
        (json!({"n": 0}), "n", "integer_below_min_value"),
        (json!({"n": 129}), "n", "integer_above_max_value"),
        (json!({"seed": 1.5}), "seed", "invalid_type"),
        (json!({"seed": u64::MAX}), "seed", "integer_above_max_value"),
        (json!({"max_tokens": 0}), "max_tokens", "integer_below_min_value"),
        (json!({"max_tokens": 3, "max_completion_tokens": 4}), "max_tokens", "invalid_value"),
        (json!({"max_tokens": 3, "min_tokens": 4}), "min_tokens", "invalid_value"),
        (json!({"stop": 3}), "stop", "invalid_type"),
        (json!({"stop": [3]}), "stop[0]", "invalid_type"),
        (json!({"stop": ["a", ""]}), "stop[1]", "invalid_value"),
        (json!({"stop": vec!["a"; 17]}), "stop", "array_above_max_length"),
        (json!({"stop": "a".repeat(1025)}), "stop[0]", "invalid_value"),
        (json!({"stop_token_ids": [-1]}), "stop_token_ids[0]", "integer_below_min_value"),
        (json!({"stop_token_ids": "7"}), "stop_token_ids", "invalid_type"),
        (json!({"logprobs": 3}), "logprobs", "invalid_type"),
        (json!({"top_logprobs": 3}), "top_logprobs", "invalid_value"),
        (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs", "integer_above_max_value"),
        (json!({"logit_bias": {"x": 1}}), "logit_bias", "invalid_value"),
        (json!({"logit_bias": {"7": 101}}), "logit_bias.7", "decimal_above_max_value"),
        (json!({"logit_bias": [7]}), "logit_bias", "invalid_type"),
        (json!({"stream": "yes"}), "stream", "invalid_type"),
        (
            json!({"stream": true, "stream_options": {"x": 1}}),
            "stream_options.x",
            "unknown_parameter",
        ),
        (json!({"ignore_eos": 1}), "ignore_eos", "invalid_type"),
        (json!({"chat_template_kwargs": []}), "chat_template_kwargs", "invalid_type"),
        (json!({"mm_processor_kwargs": 1}), "mm_processor_kwargs", "invalid_type"),
        (json!({"multi_modal_uuids": ["a"]}), "multi_modal_uuids", "invalid_value"),
        (json!({"cache_salt": "s".repeat(257)}), "cache_salt", "invalid_value"),
        (json!({"user": 3}), "user", "invalid_type"),
        (json!({"metadata": "x"}), "metadata", "invalid_type"),
        (json!({"parallel_tool_calls": "x"}), "parallel_tool_calls", "invalid_type"),
        (json!({"best_of": 2}), "best_of", "unknown_parameter"),
        (json!({"temprature": 0}), "temprature", "unknown_parameter"),
    ])
    .await;
}

#[tokio::test]
async fn messages() {
    let one = |message: Value| json!({"messages": [message]});
    check_all(&[
        (json!({"messages": []}), "messages", "empty_array"),
        (json!({"messages": null}), "messages", "missing_required_parameter"),
        (json!({"messages": "Hi"}), "messages", "invalid_type"),
        (json!({"messages": ["Hi"]}), "messages[0]", "invalid_type"),
        (
            json!({"messages": vec![json!({"role": "user", "content": "a"}); 2049]}),
            "messages",
            "array_above_max_length",
        ),
        (one(json!({"content": "Hi"})), "messages[0].role", "missing_required_parameter"),
        (one(json!({"role": "king", "content": "Hi"})), "messages[0].role", "invalid_value"),
        (one(json!({"role": "tool", "content": "Hi"})), "messages[0].role", "unsupported_value"),
        (one(json!({"role": "user"})), "messages[0].content", "missing_required_parameter"),
        (one(json!({"role": "user", "content": 3})), "messages[0].content", "invalid_type"),
        (one(json!({"role": "user", "content": []})), "messages[0].content", "invalid_value"),
        (
            one(json!({"role": "user", "content": "a", "x": 1})),
            "messages[0].x",
            "unknown_parameter",
        ),
        (
            one(json!({"role": "assistant", "content": "a", "tool_calls": [{}]})),
            "messages[0].tool_calls",
            "unsupported_value",
        ),
        (
            one(json!({"role": "assistant", "content": "a", "audio": {"id": "x"}})),
            "messages[0].audio",
            "unsupported_value",
        ),
        (
            one(json!({"role": "system", "content": [
                {"type": "image_url", "image_url": {"url": "/a"}},
            ]})),
            "messages[0].content[0].type",
            "unsupported_value",
        ),
    ])
    .await;
}

#[tokio::test]
async fn content_parts() {
    let one = |message: Value| json!({"messages": [message]});
    let part = |part: Value| one(json!({"role": "user", "content": [part]}));
    let image = |url: &str| part(json!({"type": "image_url", "image_url": {"url": url}}));
    check_all(&[
        (part(json!({"type": "poem"})), "messages[0].content[0].type", "invalid_value"),
        (
            part(json!({"type": "text"})),
            "messages[0].content[0].text",
            "missing_required_parameter",
        ),
        (
            part(json!({"type": "text", "text": "a", "x": 1})),
            "messages[0].content[0].x",
            "unknown_parameter",
        ),
        (
            part(json!({"type": "image_url"})),
            "messages[0].content[0].image_url",
            "missing_required_parameter",
        ),
        (
            part(json!({"type": "image_url", "image_url": "/a"})),
            "messages[0].content[0].image_url",
            "invalid_type",
        ),
        (
            part(json!({"type": "image_url", "image_url": {"url": "/a", "detail": "max"}})),
            "messages[0].content[0].image_url.detail",
            "invalid_value",
        ),
        (
            part(json!({"type": "image_url", "image_url": {"url": "/a", "size": 3}})),
            "messages[0].content[0].image_url.size",
            "unknown_parameter",
        ),
        (image("picture.png"), "messages[0].content[0].image_url.url", "invalid_value"),
        (
            image("data:image/png;base64,%%"),
            "messages[0].content[0].image_url.url",
            "invalid_value",
        ),
    ])
    .await;
}

#[tokio::test]
async fn media_that_the_model_cannot_read() {
    let server = Server::start(&Fake::new(hello())).await;
    let films_and_sounds = [
        // Its configuration has a token for films, but this server does not read them.
        json!({"type": "video_url", "video_url": {"url": "https://a.example/b.mp4"}}),
        json!({"type": "audio_url", "audio_url": {"url": "/a.wav"}}),
        json!({"type": "input_audio", "input_audio": {"data": "AAEC", "format": "wav"}}),
    ];
    for part in films_and_sounds {
        let kind = part["type"].as_str().unwrap().to_owned();
        let messages = json!([{"role": "user", "content": [part]}]);
        let response = chat(&server, &body(json!({ "messages": messages }))).await;
        assert_eq!(response.status, 400, "{}", response.body);
        let param = format!("messages[0].content[0].{kind}");
        assert_eq!(response.json()["error"]["param"], param);
    }
}

#[tokio::test]
async fn limits_have_their_own_statuses() {
    let mut cfg = config::FrontendConfig::default();
    cfg.limits.n_media_max = 1;
    cfg.limits.media_file_bytes_max = 4;
    let server = Server::configured(&Fake::new(hello()), cfg).await;
    let ask = async |urls: &[&str]| {
        let part = |url: &&str| json!({"type": "image_url", "image_url": {"url": url}});
        let content: Vec<_> = urls.iter().map(part).collect();
        let messages = json!([{"role": "user", "content": content}]);
        let response = chat(&server, &body(json!({ "messages": messages }))).await;
        (response.status, response.json()["error"]["param"].clone())
    };
    let url = "messages[0].content[0].image_url.url";
    assert_eq!(ask(&["data:image/png;base64,AAECAAE="]).await, (413, json!(url)));
    assert_eq!(ask(&["data:text/plain;base64,AAEC"]).await, (415, json!(url)));
    let second = json!("messages[0].content[1].image_url");
    assert_eq!(ask(&["/a.png", "/b.png"]).await, (400, second));
    assert_eq!(ask(&["/a.png"]).await.0, 200);
}

#[tokio::test]
async fn neutral_values_are_accepted() {
    let server = Server::start(&Fake::new(hello())).await;
    let table = [
        json!({"tools": [], "tool_choice": "auto", "parallel_tool_calls": true}),
        json!({"functions": [], "function_call": "none"}),
        json!({"response_format": {"type": "text"}, "modalities": ["text"]}),
        json!({"store": false, "metadata": {"a": "b"}, "service_tier": "auto", "user": "me"}),
        json!({"prompt_cache_key": "k", "safety_identifier": "s", "verbosity": "medium"}),
        json!({"media_io_kwargs": {"image": {}}, "mm_processor_kwargs": {}}),
        json!({"audio": null, "prediction": null, "web_search_options": null, "stop": null}),
        json!({"logprobs": false, "top_logprobs": 0, "logit_bias": {}, "top_k": -1, "n": 1}),
        json!({"max_tokens": 5, "max_completion_tokens": 5, "stream": false, "seed": -1}),
        json!({"messages": [
            {"role": "developer", "content": "a", "name": "x"},
            {"role": "user", "content": [{"type": "text", "text": "b"}]},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}],
             "tool_calls": []},
            {"role": "assistant", "content": null, "refusal": "no"},
            {"role": "user", "content": ""},
        ]}),
    ];
    for more in table {
        let response = chat(&server, &body(more.clone())).await;
        assert_eq!(response.status, 200, "{more}: {}", response.body);
    }
}

#[tokio::test]
async fn prompts_over_the_context() {
    let server = Server::start(&Fake::new(hello())).await;
    let ask = async |more: Value| {
        let response = chat(&server, &body(more)).await;
        (response.status, response.json()["error"]["code"].clone())
    };
    let words = "word ".repeat(crate::fake::MAX_SEQ_LEN as usize);
    let long = json!({"messages": [{"role": "user", "content": words}]});
    let too_long = (400, json!("context_length_exceeded"));
    assert_eq!(ask(long).await, too_long);
    assert_eq!(ask(json!({"max_tokens": 199})).await, too_long);
    assert_eq!(ask(json!({"max_tokens": 20})).await.0, 200);
}

#[tokio::test]
async fn bodies_that_are_no_request() {
    let server = Server::start(&Fake::new(hello())).await;
    let ask = async |headers: &[(&str, &str)], bytes: &[u8]| {
        let response = server.post("/v1/chat/completions", headers, bytes).await;
        (response.status, response.json()["error"]["code"].clone())
    };
    assert_eq!(ask(&[], b"{").await, (400, json!("invalid_json")));
    assert_eq!(ask(&[], b"").await, (400, json!("invalid_json")));
    assert_eq!(ask(&[], b"\xff{}").await, (400, json!("invalid_json")));
    assert_eq!(ask(&[], b"[]").await, (400, json!("invalid_type")));
    assert_eq!(ask(&[], &b"[".repeat(4096)).await, (400, json!("invalid_json")));
    let text = [("content-type", "text/plain")];
    assert_eq!(ask(&text, b"{}").await, (415, json!("unsupported_content_type")));
    let charset = [("content-type", "application/json; charset=utf-8")];
    let whole = json!({"model": MODEL, "messages": [{"role": "user", "content": "a"}]});
    assert_eq!(ask(&charset, whole.to_string().as_bytes()).await.0, 200);
}
