//! What is done here with bytes of strangers: one function for each parser.
//!
//! The fuzzer calls them with bytes that it makes up, and the workspace's test `fuzz_corpora` with
//! the files of `corpus/`. They return whatever the bytes are: a panic is a finding, and so is an
//! answer that breaks its own promise, or one that takes too long or too much memory.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use config::frontend::FrontendLimits;
use frontend::ChatReader;
use media::{AlphaPolicy, Limits, Size};
use serde_json::{Value, json};
use std::sync::OnceLock;
use text::{ChatTemplate, RenderOptions, Tokenizer};
use types::card::ModelCard;
use types::media::{MediaKind, MediaSource};
use types::request::GenerateRequest;

/// A parser's name, which is that of its folder of the corpus, and the function.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 6] = [
    ("request", request),
    ("data_url", data_url),
    ("picture", picture),
    ("template", template),
    ("tokenizer", tokenizer),
    ("wire", wire),
];

/// Longest context of the model that requests are read for.
const N_CONTEXT_MAX: u32 = 4096;

/// Most bytes of what a client is told of a failure: it repeats little of what the client sent.
const ERROR_BYTES_MAX: usize = 2048;

/// Most bytes of a medium in a request; small, so that the fuzzer meets the limit.
const FILE_BYTES_MAX: u64 = 2048;

/// Pictures are small, so that the fuzzer tries many.
const PICTURE: Limits = Limits { max_pixels: 1 << 16, max_bytes: 1 << 20, max_side: 4096 };

/// Most bytes that a rendered template may have.
const PROMPT_BYTES_MAX: usize = 64 << 20;

/// Words that belong to the inside and to nobody's messages.
const INSIDE: [&str; 6] = ["panicked", "unwrap", ".rs:", "::", "os error", "src/"];

/// The body of a chat, up to its tokens.
pub fn request(data: &[u8]) {
    if let Some(request) = read(data) {
        check_request(&request);
    }
}

/// The address of a picture in a chat, data URLs above all.
pub fn data_url(data: &[u8]) {
    let url = String::from_utf8_lossy(data);
    let part = json!({"type": "image_url", "image_url": {"url": url}});
    let body = json!({"model": "m", "messages": [{"role": "user", "content": [part]}]});
    let Some(request) = read(body.to_string().as_bytes()) else { return };
    check_request(&request);
    assert_eq!(request.media.len(), 1);
    match &request.media[0].source {
        MediaSource::Bytes(bytes) => {
            // What was accepted is what stands there, padded or not.
            let written = url.rsplit(',').next().unwrap_or_default().trim_end_matches('=');
            assert_eq!(STANDARD.encode(bytes).trim_end_matches('='), written);
        }
        MediaSource::Path(path) => assert!(path.starts_with('/') && !path.contains('\0')),
        MediaSource::Url(address) => assert_eq!(*address, url),
    }
}

/// A file of any format.
pub fn picture(data: &[u8]) {
    let header = media::header(data, &PICTURE);
    let decoded = media::decode_with(data, &PICTURE, AlphaPolicy::OnWhite);
    let image = match (header, decoded) {
        (Ok(header), Ok(image)) => {
            assert_eq!(image.size(), header.size);
            image
        }
        (Ok(_), Err(error)) | (Err(error), Err(_)) => return check_words(&error.message),
        (Err(error), Ok(_)) => panic!("decoded although its header is refused: {error}"),
    };
    assert_eq!(image.rgb.len() as u64, image.size().n_pixels() * 3);
    for size in [Size::new(28, 56), Size::new(1, 3)] {
        assert_eq!(media::resize::bicubic(&image, size).size(), size);
    }
}

/// A model's template, and after a zero byte the messages, which are some usual ones where it is
/// no JSON.
pub fn template(data: &[u8]) {
    let (source, messages) = match data.iter().position(|&byte| byte == 0) {
        Some(end) => (&data[..end], &data[end + 1..]),
        None => (data, &[][..]),
    };
    let card = card_with("chat_template.jinja", source.to_vec());
    let Ok(template) = ChatTemplate::from_card(&card) else { return };
    let usual = || json!([{"role": "user", "content": "Hello!"}]);
    let messages: Value = serde_json::from_slice(messages).unwrap_or_else(|_| usual());
    let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
    match template.render(&messages, &options) {
        Ok(prompt) => assert!(prompt.len() <= PROMPT_BYTES_MAX, "{} bytes", prompt.len()),
        Err(error) => assert!(error.message.len() <= ERROR_BYTES_MAX, "{}", error.message.len()),
    }
}

/// A model's tokenizer.json.
pub fn tokenizer(data: &[u8]) {
    const WORDS: &str = "Hello, <|im_end|> wörld 123";
    let card = card_with("tokenizer.json", data.to_vec());
    let Ok(tokenizer) = Tokenizer::from_card(&card) else { return };
    let Ok(tokens) = tokenizer.encode(WORDS) else { return };
    tokenizer.decode(&tokens, true);
    let all: Vec<u32> = (0..tokenizer.n_tokens() as u32 + 1).collect();
    tokenizer.decode(&all, false);
}

/// A message of a peer, or the card of a model.
pub fn wire(data: &[u8]) {
    let bytes = || Bytes::copy_from_slice(data);
    if let Ok(request) = wire::decode_request(bytes()) {
        assert!(wire::decode_request(wire::encode_request(&request)).is_ok());
    }
    if let Ok(reply) = wire::decode_reply(bytes()) {
        assert!(wire::decode_reply(wire::encode_reply(&reply)).is_ok());
    }
    if let Ok(card) = wire::decode_card(bytes()) {
        assert_eq!(wire::decode_card(wire::encode_card(&card)).as_ref(), Ok(&card));
    }
}

/// Reads a chat; a refusal must be in words for a client.
fn read(body: &[u8]) -> Option<GenerateRequest> {
    static READER: OnceLock<ChatReader> = OnceLock::new();
    let reader = READER.get_or_init(|| {
        let limits =
            FrontendLimits { media_file_bytes_max: FILE_BYTES_MAX, ..FrontendLimits::default() };
        ChatReader::new(&demo_card(), limits).expect("the demo model can be served")
    });
    let refused = match reader.read(body) {
        Ok(request) => return Some(request),
        Err(refused) => refused,
    };
    assert!(refused.len() <= ERROR_BYTES_MAX, "{} bytes of a refusal", refused.len());
    let error: Value = serde_json::from_str(&refused).expect("a refusal is JSON");
    assert!(error["error"]["message"].is_string() && error["error"]["type"].is_string());
    None
}

/// Whatever was asked for, workers get it within bounds.
fn check_request(request: &GenerateRequest) {
    let sampling = &request.sampling;
    assert!((0.0..=2.0).contains(&sampling.temperature));
    assert!(sampling.top_p > 0.0 && sampling.top_p <= 1.0);
    assert!((0.0..=1.0).contains(&sampling.min_p));
    assert!(sampling.repetition_penalty > 0.0 && sampling.repetition_penalty.is_finite());
    assert!(sampling.logit_bias.iter().all(|(_, bias)| bias.abs() <= 100.0));
    assert!(sampling.n >= 1 && sampling.max_tokens != Some(0));
    assert!(request.prompt.len() < N_CONTEXT_MAX as usize);
}

/// A message for a client says nothing of the inside.
fn check_words(message: &str) {
    let found = INSIDE.iter().find(|word| message.contains(*word));
    assert_eq!(found, None, "{message}");
}

/// The demo model's card, without weights.
fn demo_card() -> ModelCard {
    let file = |name: &str, bytes: &[u8]| (name.to_owned(), bytes.to_vec());
    ModelCard {
        files: vec![
            file("chat_template.jinja", include_bytes!("../../models/shapes/chat_template.jinja")),
            file("config.json", include_bytes!("../../models/shapes/config.json")),
            file("tokenizer.json", include_bytes!("../../models/shapes/tokenizer.json")),
        ],
        max_seq_len: N_CONTEXT_MAX,
        media: vec![MediaKind::Image],
        ..ModelCard::default()
    }
}

fn card_with(name: &str, bytes: Vec<u8>) -> ModelCard {
    ModelCard { files: vec![(name.to_owned(), bytes)], ..ModelCard::default() }
}
