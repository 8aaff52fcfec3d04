//! Questions of every kind that the whole system must answer alike in every topology: text, one to
//! three pictures, shared beginnings, several turns, files too large for a message.

use super::demo_model;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bench::eval::questions::{picture_of, with_article};
use bench::pictures::render::Picture;
use bench::rng::Rng;
use serde_json::{Value, json};

/// A file of this size is lent to the encoder instead of travelling in a message.
const LARGE_BYTES: usize = 200 << 10;

/// The beginning that some questions share: several KV blocks of it.
const SHARED_BEGINNING: &str = "You look at pictures with great care. There may be circles, \
    squares, triangles and stars, and each of them is red, green, blue, yellow, purple, orange or \
    black. Some pictures show a number instead. You name what you see from left to right, you \
    count without haste, and you never add anything that is not there. Answer in one sentence.";

/// The kinds of questions, in the order in which they take turns.
const KINDS: [fn(&mut Rng) -> Question; 10] = [
    greeting,
    |rng| about_one(rng, "What is in the picture?", false),
    |rng| about_one(rng, "How many shapes are there?", false),
    two_pictures,
    three_pictures,
    later_turn,
    picture_in_later_turn,
    shared_beginning,
    long_answer,
    |rng| about_one(rng, "Which shape is furthest left?", true),
];

/// A request, and the right answer where it is known.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) body: Value,
    pub(crate) expected: Option<String>,
}

/// `n` different questions, the same ones every time; each kind has its turn.
pub(crate) fn questions(n: usize) -> Vec<Question> {
    let question = |idx: usize| {
        // Neighbours share their pictures, so that some prompts begin alike.
        let rng = &mut Rng::of(1, "cluster", (idx / 2) as u64);
        let mut question = KINDS[idx % KINDS.len()](rng);
        if idx.is_multiple_of(3) {
            question.body["stream"] = json!(false);
            question.body.as_object_mut().unwrap().remove("stream_options");
        }
        question
    };
    (0..n).map(question).collect()
}

/// Questions in a word, one for each number, with answers as short as they get.
pub(crate) fn brief_questions(numbers: std::ops::Range<usize>) -> Vec<Question> {
    let question = |number: usize| chat(vec![user(&[], &format!("Hello {number}!"))], 2);
    numbers.map(question).collect()
}

/// Questions that take a while: each about a picture, with a long answer.
pub(crate) fn long_questions(n: usize, n_tokens: u32) -> Vec<Question> {
    let question = |idx: usize| {
        let rng = &mut Rng::of(2, "cluster", idx as u64);
        let mut question = long_answer(rng);
        question.body["max_tokens"] = json!(n_tokens);
        question
    };
    (0..n).map(question).collect()
}

/// A question without a picture, with a long answer.
pub(crate) fn long_greeting(n_tokens: u32) -> Question {
    long_answer_to("Hello!", n_tokens)
}

/// The same after a prompt of about as many tokens.
pub(crate) fn long_prompt(n_prompt_tokens: usize, n_tokens: u32) -> Question {
    long_answer_to(&"a ".repeat(n_prompt_tokens), n_tokens)
}

fn long_answer_to(words: &str, n_tokens: u32) -> Question {
    let mut question = chat(vec![user(&[], words)], n_tokens);
    question.body["ignore_eos"] = json!(true);
    question
}

/// A question about a picture file of the demo model.
pub(crate) fn about_sample(words: &str, name: &str, answer: &str) -> Question {
    about_file(words, (name, sample(name)), answer)
}

/// The same about a file of `n_bytes`: what follows the end of a picture is ignored.
pub(crate) fn about_padded(words: &str, name: &str, answer: &str, n_bytes: usize) -> Question {
    let mut bytes = sample(name);
    bytes.resize(n_bytes, 0);
    about_file(words, (name, bytes), answer)
}

fn sample(name: &str) -> Vec<u8> {
    std::fs::read(demo_model().join("samples").join(name)).unwrap()
}

fn about_file(words: &str, (name, bytes): (&str, Vec<u8>), answer: &str) -> Question {
    let media_type = if name.ends_with(".png") { "image/png" } else { "image/jpeg" };
    let mut question = chat(vec![user(&[part(media_type, &bytes)], words)], 64);
    question.expected = Some(answer.to_owned());
    question
}

/// Two pictures with an answer each.
pub(crate) fn two_samples() -> [Question; 2] {
    let shapes = "From left to right: a red circle, a blue square.";
    [
        about_sample("What is in the picture?", "two-shapes.png", shapes),
        about_sample("What number is written?", "forty-two.png", "42"),
    ]
}

fn greeting(rng: &mut Rng) -> Question {
    let words = *rng.pick(&["Hello!", "Hi", "Good morning!", "What can you do?"]);
    chat(vec![user(&[], words)], 40)
}

fn about_one(rng: &mut Rng, words: &str, is_large: bool) -> Question {
    let n_shapes = rng.whole(1, 4) as usize;
    let (picture, shapes) = picture_of(rng, n_shapes);
    let looks: Vec<_> = shapes.iter().map(|it| with_article(it.colour, it.kind)).collect();
    let expected = match words {
        "What is in the picture?" => format!("From left to right: {}.", looks.join(", ")),
        "How many shapes are there?" => looks.len().to_string(),
        _ => format!("A{}.", &looks[0][1..]),
    };
    let mut file = picture.file();
    if is_large {
        // What follows the end of a picture is ignored.
        file.resize(LARGE_BYTES, 0);
    }
    let picture = part(picture.encoding.media_type(), &file);
    Question { expected: Some(expected), ..chat(vec![user(&[picture], words)], 64) }
}

fn two_pictures(rng: &mut Rng) -> Question {
    let n_shapes = [rng.whole(1, 4), rng.whole(1, 4)];
    let pictures = n_shapes.map(|n_shapes| drawn(&picture_of(rng, n_shapes as usize).0));
    let expected = match n_shapes[0].cmp(&n_shapes[1]) {
        std::cmp::Ordering::Greater => "The first.",
        std::cmp::Ordering::Less => "The second.",
        std::cmp::Ordering::Equal => "Neither.",
    };
    let question = chat(vec![user(&pictures, "Which picture has more shapes?")], 16);
    Question { expected: Some(expected.to_owned()), ..question }
}

fn three_pictures(rng: &mut Rng) -> Question {
    let pictures = [1, 2, 3].map(|n_shapes| drawn(&picture_of(rng, n_shapes).0));
    chat(vec![user(&pictures, "What is in the picture?")], 48)
}

fn later_turn(rng: &mut Rng) -> Question {
    let (picture, shapes) = picture_of(rng, 3);
    let first = user(&[drawn(&picture)], "How many shapes are there?");
    let answer = json!({"role": "assistant", "content": shapes.len().to_string()});
    chat(vec![first, answer, user(&[], "What is in the picture?")], 64)
}

fn picture_in_later_turn(rng: &mut Rng) -> Question {
    let (picture, _) = picture_of(rng, 2);
    let greeting = json!({"role": "assistant", "content": "Hello! Send me a picture."});
    let question = user(&[drawn(&picture)], "What is in the picture?");
    chat(vec![user(&[], "Hello!"), greeting, question], 64)
}

fn shared_beginning(rng: &mut Rng) -> Question {
    let (picture, _) = picture_of(rng, 2);
    let system = json!({"role": "system", "content": SHARED_BEGINNING});
    let pictures = if rng.chance(0.5) { vec![drawn(&picture)] } else { Vec::new() };
    chat(vec![system, user(&pictures, "What do you see?")], 32)
}

fn long_answer(rng: &mut Rng) -> Question {
    let (picture, _) = picture_of(rng, 4);
    let mut question = chat(vec![user(&[drawn(&picture)], "Describe the picture.")], 96);
    question.body["ignore_eos"] = json!(true);
    question
}

fn drawn(picture: &Picture) -> Value {
    part(picture.encoding.media_type(), &picture.file())
}

fn part(media_type: &str, bytes: &[u8]) -> Value {
    let url = format!("data:{media_type};base64,{}", STANDARD.encode(bytes));
    json!({"type": "image_url", "image_url": {"url": url}})
}

fn user(pictures: &[Value], words: &str) -> Value {
    let words = json!({"type": "text", "text": words});
    let content: Vec<&Value> = pictures.iter().chain([&words]).collect();
    json!({"role": "user", "content": content})
}

fn chat(messages: Vec<Value>, max_tokens: u32) -> Question {
    let body = json!({
        "model": "shapes", "messages": messages, "max_tokens": max_tokens, "temperature": 0,
        "stream": true, "stream_options": {"include_usage": true},
    });
    Question { body, expected: None }
}
