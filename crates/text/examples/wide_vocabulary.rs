//! Writes a model folder whose vocabulary is as wide as published ones, for measuring what prompts
//! cost there: a model folder of Qwen2-VL's form without its weights, the tokenizer trained anew on
//! generated words. Beside it come prompts of given lengths, one a line.
//!
//! `wide_vocabulary FROM TO [N_TOKENS ...]` reads the folder FROM and writes TO. The same folder
//! comes out each time.

use serde_json::{Map, Value, json};
use std::collections::HashSet;
use std::error::Error;
use std::fs;
use std::path::Path;
use text::{ChatTemplate, RenderOptions, Tokenizer, tokenize_chat};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{Model, OffsetReferential, OffsetType, PreTokenizer, Trainer};
use types::card::ModelCard;

/// Entries beside the special tokens.
const N_ENTRIES: usize = 32_768;

/// Distinct generated words; merges need more of them than there are entries.
const N_WORDS: usize = 80_000;

/// How often the most frequent word occurs; the others by their rank, as in any language.
const COUNT_MAX: usize = 1_000_000;

/// Words of the requests that are measured, which any vocabulary of this width has whole.
const EVERYDAY: &str = "user assistant system This is a mock answer. hello there, please tell me a \
                        story about a small red circle the of and to in that it was for on are as \
                        with his they at be from have or by one had not but what all were when";

const ONSETS: &[&str] = &[
    "", "b", "bl", "br", "c", "ch", "cl", "cr", "d", "dr", "f", "fl", "fr", "g", "gr", "h", "j",
    "k", "l", "m", "n", "p", "pl", "pr", "qu", "r", "s", "sc", "sh", "sl", "sp", "st", "str", "t",
    "th", "tr", "v", "w", "wh", "y", "z",
];
const VOWELS: &[&str] =
    &["a", "e", "i", "o", "u", "ai", "ea", "ee", "io", "oo", "ou", "ow", "ue", "y"];
const CODAS: &[&str] = &[
    "", "", "", "b", "ck", "d", "f", "g", "l", "ll", "m", "n", "nd", "ng", "nt", "p", "r", "rd",
    "rt", "s", "ss", "st", "t", "tion", "x",
];

/// From these ranks on words have a syllable more.
const LONGER_FROM: [usize; 2] = [4_000, 30_000];

/// How many prompts of each length are written: too many for a cache of whole prompts to matter
/// where prompts are long.
const N_PROMPTS: usize = 256;

const FILES_TAKEN_OVER: [&str; 3] =
    ["chat_template.jinja", "generation_config.json", "preprocessor_config.json"];

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [from, to, lengths @ ..] = args.as_slice() else {
        return Err("usage: wide_vocabulary FROM TO [N_TOKENS ...]".into());
    };
    let (from, to) = (Path::new(from), Path::new(to));
    fs::create_dir_all(to)?;
    let words = words();
    let (tokenizer, shift) = widened(&read(from, "tokenizer.json")?, &words)?;
    fs::write(to.join("tokenizer.json"), serde_json::to_vec(&tokenizer)?)?;
    for name in FILES_TAKEN_OVER {
        let text = fs::read_to_string(from.join(name))?;
        let text = if name == "generation_config.json" {
            shifted(serde_json::from_str(&text)?, shift).to_string()
        } else {
            text
        };
        fs::write(to.join(name), text)?;
    }
    let mut config = shifted(read(from, "config.json")?, shift);
    config["vocab_size"] = json!(N_ENTRIES + shift.n_special);
    config["max_position_embeddings"] = json!(32_768);
    fs::write(to.join("config.json"), config.to_string())?;
    for n_tokens in lengths {
        let prompts = prompts(&card(to)?, &words, n_tokens.parse()?)?;
        fs::write(to.join(format!("prompts-{n_tokens}.txt")), prompts.join("\n") + "\n")?;
    }
    Ok(())
}

/// How the ids of special tokens move.
#[derive(Clone, Copy)]
struct Shift {
    /// The first of them, before.
    first: u64,
    n_special: usize,
}

impl Shift {
    fn of(self, id: u64) -> u64 {
        if id < self.first { id } else { id - self.first + N_ENTRIES as u64 }
    }
}

/// Words that could be English, the most frequent first.
fn words() -> Vec<String> {
    let mut state = 1_u64;
    let mut draw = |from: &[&'static str]| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        from[(state >> 33) as usize % from.len()]
    };
    let mut words: Vec<String> = EVERYDAY.split(' ').map(str::to_owned).collect();
    let mut known: HashSet<String> = words.iter().cloned().collect();
    while words.len() < N_WORDS {
        let n_longer = LONGER_FROM.iter().filter(|&&rank| words.len() >= rank).count();
        let syllable = |_| [draw(ONSETS), draw(VOWELS), draw(CODAS)].concat();
        let word: String = (0..1 + n_longer).map(syllable).collect();
        if known.insert(word.clone()) {
            words.push(word);
        }
    }
    words
}

/// The tokenizer with another vocabulary, and what became of its special tokens.
fn widened(tokenizer: &Value, words: &[String]) -> Result<(Value, Shift), Box<dyn Error>> {
    let library = tokenizers::Tokenizer::from_bytes(tokenizer.to_string()).map_err(text_of)?;
    let special = tokenizer["added_tokens"].as_array().ok_or("no added tokens")?;
    let first = special.iter().filter_map(|token| token["id"].as_u64()).min();
    let shift = Shift { first: first.ok_or("no special tokens")?, n_special: special.len() };
    let model = serde_json::to_value(trained(&library, words)?)?;
    let mut wide = tokenizer.clone();
    for name in ["vocab", "merges"] {
        wide["model"][name] = model[name].clone();
    }
    for token in wide["added_tokens"].as_array_mut().into_iter().flatten() {
        token["id"] = json!(shift.of(token["id"].as_u64().unwrap_or_default()));
    }
    Ok((wide, shift))
}

/// A model trained on each word at the beginning of a line and behind a space.
fn trained(library: &tokenizers::Tokenizer, words: &[String]) -> Result<BPE, Box<dyn Error>> {
    let mut trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(N_ENTRIES)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let cutter = library.get_pre_tokenizer().ok_or("the tokenizer cuts no words")?;
    let counted = words.iter().enumerate().flat_map(|(rank, word)| {
        // The square root keeps rare words in sight of so short a text.
        let n_times = 1 + (COUNT_MAX / (rank + 1)).isqrt();
        (0..n_times).flat_map(move |_| [format!(" {word}"), word.clone()])
    });
    let cut = |text: &str| {
        let mut cut = tokenizers::PreTokenizedString::from(text);
        cutter.pre_tokenize(&mut cut)?;
        let words = cut.get_splits(OffsetReferential::Original, OffsetType::None);
        Ok(words.into_iter().map(|(word, ..)| word.to_owned()).collect())
    };
    trainer.feed(counted, cut).map_err(text_of)?;
    let mut model = BPE::default();
    trainer.train(&mut model).map_err(text_of)?;
    if model.get_vocab_size() != N_ENTRIES {
        return Err(format!("the words gave {} entries only", model.get_vocab_size()).into());
    }
    Ok(model)
}

/// Every id of a special token in a configuration, moved.
fn shifted(config: Value, shift: Shift) -> Value {
    let moved = |value: Value| match value {
        Value::Array(ids) => ids.iter().filter_map(Value::as_u64).map(|id| shift.of(id)).collect(),
        id => json!(shift.of(id.as_u64().unwrap_or_default())),
    };
    let Value::Object(fields) = config else { return config };
    let field = |(name, value): (String, Value)| match name.ends_with("token_id") {
        true => (name, moved(value)),
        false => (name, value),
    };
    Value::Object(fields.into_iter().map(field).collect::<Map<_, _>>())
}

/// What users say, so that the whole prompt with the template around it has `n_tokens`.
fn prompts(
    card: &ModelCard,
    words: &[String],
    n_tokens: usize,
) -> Result<Vec<String>, Box<dyn Error>> {
    let (tokenizer, template) = (Tokenizer::from_card(card)?, ChatTemplate::from_card(card)?);
    let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
    let length = |content: &str| {
        let messages = json!([{"role": "user", "content": content}]);
        tokenize_chat(&template, &tokenizer, &messages, &options).map(|tokens| tokens.len())
    };
    let mut state = 2_u64;
    let mut prompt = || {
        let mut content = "hello".to_owned();
        let mut n_left = n_tokens.checked_sub(length(&content)?).ok_or("too short a prompt")?;
        while n_left > 0 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Squared, so that frequent words come more often.
            let share = (state >> 40) as f64 / (1_u64 << 24) as f64;
            let word = format!(" {}", words[(share * share * words.len() as f64) as usize]);
            let n_word = tokenizer.encode(&word)?.len();
            if n_word <= n_left {
                content += &word;
                n_left -= n_word;
            }
        }
        match length(&content)? == n_tokens {
            true => Ok(content),
            false => Err("a prompt is not as long as its words".into()),
        }
    };
    (0..N_PROMPTS).map(|_| prompt()).collect()
}

fn card(folder: &Path) -> Result<ModelCard, Box<dyn Error>> {
    let read = |name: &str| Ok((name.to_owned(), fs::read(folder.join(name))?));
    let files: Result<_, std::io::Error> =
        ["tokenizer.json", "chat_template.jinja"].into_iter().map(read).collect();
    Ok(ModelCard { files: files?, ..ModelCard::default() })
}

fn read(folder: &Path, name: &str) -> Result<Value, Box<dyn Error>> {
    Ok(serde_json::from_slice(&fs::read(folder.join(name))?)?)
}

/// The library's errors may come from any thread, ours need not.
fn text_of(error: tokenizers::Error) -> String {
    error.to_string()
}
