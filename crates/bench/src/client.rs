//! A client of the chat completions API, as simple as they are: one request, one streamed answer.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

/// An answer that takes longer than this is a failure.
const ANSWER_S_MAX: u64 = 300;
/// How much of an error body is shown.
const ERROR_CHARS_MAX: usize = 400;

/// A server and a model on it.
#[derive(Debug, Clone)]
pub struct Client {
    agent: ureq::Agent,
    url: String,
    model: String,
}

/// A question as it is sent.
#[derive(Debug, Clone)]
pub struct Chat {
    /// The user's words.
    pub text: String,
    /// Media type and bytes of each picture, before the words.
    pub pictures: Vec<(&'static str, Vec<u8>)>,
    /// Most tokens of the answer.
    pub max_tokens: u32,
    /// Go on to `max_tokens` whatever the model says.
    pub ignore_eos: bool,
}

/// An answer with its times, counted from the moment before the request was sent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reply {
    /// All of its text.
    pub text: String,
    /// When the first piece of it came.
    pub first_token: Duration,
    /// When the last piece of it came.
    pub last_token: Duration,
    /// Tokens of the prompt, as the server counts.
    pub n_prompt_tokens: u64,
    /// Tokens of the answer, as the server counts.
    pub n_tokens: u64,
}

impl Client {
    /// A client of the server at `url`; without a model's name it takes the first that is served.
    ///
    /// Errors: the server does not answer, or serves nothing.
    pub fn connect(url: &str, model: Option<&str>) -> Result<Self, String> {
        let agent = ureq::Agent::config_builder()
            .proxy(None)
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(ANSWER_S_MAX)))
            .build()
            .new_agent();
        let url = url.trim_end_matches('/').to_string();
        let model = match model {
            Some(model) => model.to_string(),
            None => first_model(&agent, &url)?,
        };
        Ok(Self { agent, url, model })
    }

    /// The name of the model that is asked.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Asks, and reads the answer to its end.
    ///
    /// Errors: whatever keeps a whole answer from coming, with the server's words for it.
    pub fn ask(&self, chat: &Chat) -> Result<Reply, String> {
        let body = self.body(chat).to_string();
        let start = Instant::now();
        let url = format!("{}/v1/chat/completions", self.url);
        let request = self.agent.post(url).header("content-type", "application/json");
        let mut response = request.send(&body).map_err(|error| error.to_string())?;
        if response.status() != 200 {
            let text = response.body_mut().read_to_string().unwrap_or_default();
            return Err(format!("{}: {}", response.status(), shortened(&text)));
        }
        read_answer(BufReader::new(response.body_mut().as_reader()), start)
    }

    fn body(&self, chat: &Chat) -> Value {
        let pictures = chat.pictures.iter().map(|(media_type, bytes)| {
            let url = format!("data:{media_type};base64,{}", STANDARD.encode(bytes));
            json!({"type": "image_url", "image_url": {"url": url}})
        });
        let content: Vec<Value> =
            pictures.chain([json!({"type": "text", "text": chat.text})]).collect();
        let mut body = json!({
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": chat.max_tokens,
            "temperature": 0,
            "stream": true,
            "stream_options": {"include_usage": true},
        });
        if chat.ignore_eos {
            body["ignore_eos"] = json!(true);
        }
        body
    }
}

fn first_model(agent: &ureq::Agent, url: &str) -> Result<String, String> {
    let response = agent.get(format!("{url}/v1/models")).call();
    let mut response = response.map_err(|error| format!("{url}: {error}"))?;
    let text = response.body_mut().read_to_string().map_err(|error| error.to_string())?;
    let models: Value = serde_json::from_str(&text).unwrap_or_default();
    let name = models["data"][0]["id"].as_str().map(String::from);
    name.ok_or_else(|| format!("{url} serves no model: {}", shortened(&text)))
}

fn shortened(text: &str) -> String {
    text.chars().take(ERROR_CHARS_MAX).collect()
}

/// Reads server-sent events up to `[DONE]`; a stream that ends before that is an error.
fn read_answer(events: impl BufRead, start: Instant) -> Result<Reply, String> {
    let mut reply = Reply::default();
    for line in events.lines() {
        let line = line.map_err(|error| error.to_string())?;
        let Some(data) = line.strip_prefix("data:").map(str::trim) else { continue };
        if data == "[DONE]" {
            return Ok(reply);
        }
        let event: Value =
            serde_json::from_str(data).map_err(|error| format!("{error}: {data}"))?;
        if let Some(error) = event.get("error") {
            return Err(shortened(&error.to_string()));
        }
        take(&mut reply, &event, start.elapsed());
    }
    Err("the stream ended without [DONE]".into())
}

fn take(reply: &mut Reply, event: &Value, now: Duration) {
    if let Some(text) = event["choices"][0]["delta"]["content"].as_str().filter(|t| !t.is_empty()) {
        if reply.text.is_empty() {
            reply.first_token = now;
        }
        reply.last_token = now;
        reply.text.push_str(text);
    }
    if let Some(usage) = event["usage"].as_object() {
        let count = |name: &str| usage.get(name).and_then(Value::as_u64).unwrap_or(0);
        (reply.n_prompt_tokens, reply.n_tokens) =
            (count("prompt_tokens"), count("completion_tokens"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(events: &str, expected: Result<(&str, u64), &str>) {
        let read = read_answer(events.as_bytes(), Instant::now());
        let seen = read.as_ref().map(|reply| (reply.text.as_str(), reply.n_tokens));
        assert_eq!(seen.map_err(String::as_str), expected, "{events:?}");
    }

    #[test]
    fn answers_are_read_to_their_end() {
        let piece = |text: &str| {
            format!("data: {}\n\n", json!({"choices": [{"delta": {"content": text}}]}))
        };
        let usage =
            "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2}}\n\n";
        let whole = format!(": hello\n\n{}{}{usage}data: [DONE]\n\n", piece("A \"b"), piece("\"."));
        check(&whole, Ok(("A \"b\".", 2)));
        check("data: {\"error\":{\"message\":\"no\"}}\n\n", Err("{\"message\":\"no\"}"));
        check(&piece("A"), Err("the stream ended without [DONE]"));
        check("", Err("the stream ended without [DONE]"));
    }
}
