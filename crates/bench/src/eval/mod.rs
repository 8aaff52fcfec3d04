//! How often a server's answers about fresh pictures are right, per kind of question.

pub mod questions;
pub mod table;

use crate::client::{Chat, Client};
use crate::pictures::digits::Typefaces;
use crate::pool;
use questions::{Kind, Question, question};
use std::path::{Path, PathBuf};
use table::{Requirement, Table};

/// Longer than any right answer.
const MAX_TOKENS: u32 = 64;

/// Which questions, and how many right answers are enough.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The server.
    #[arg(long, default_value = "http://127.0.0.1:8000")]
    pub url: String,
    /// The model; the first one served when absent.
    #[arg(long)]
    pub model: Option<String>,
    /// Questions of each kind, every one about a fresh picture.
    #[arg(long, default_value_t = 500)]
    pub n: usize,
    /// Other seeds give other pictures.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Questions under way at the same time.
    #[arg(long, default_value_t = 4)]
    pub concurrency: usize,
    /// Fail unless each kind has at least this many percent right.
    #[arg(long, default_value_t = 97.0)]
    pub require: f64,
    /// The same for numbers.
    #[arg(long, default_value_t = 96.0)]
    pub require_number: f64,
    /// Save pictures, question and answer of what went wrong here.
    #[arg(long)]
    pub save_wrong: Option<PathBuf>,
}

/// One question's outcome.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What was asked.
    pub question: Question,
    /// What came back.
    pub answer: Result<String, String>,
}

impl Outcome {
    /// Whether the answer came and is right.
    pub fn is_right(&self) -> bool {
        self.answer.as_ref().is_ok_and(|answer| self.question.expected.is_met_by(answer))
    }
}

/// Asks all questions, prints the table, and fails when a kind has too few right.
pub fn run(args: &Args) -> Result<(), String> {
    let table = evaluate(args)?;
    print!("{table}");
    let failed = table.short_of(Requirement { percent: args.require, number: args.require_number });
    if failed.is_empty() { Ok(()) } else { Err(format!("too few right: {}", failed.join(", "))) }
}

/// Asks all questions.
///
/// Errors: the server is not there, typefaces are missing, or wrong answers cannot be saved. A
/// request that fails is a wrong answer.
pub fn evaluate(args: &Args) -> Result<Table, String> {
    let client = Client::connect(&args.url, args.model.as_deref())?;
    let typefaces = Typefaces::installed()?;
    let n_questions = args.n * Kind::ALL.len();
    let ask_one = |idx: usize| {
        // Kinds take turns, so that every kind meets every load.
        let kind = Kind::ALL[idx % Kind::ALL.len()];
        let question = question(kind, args.seed, idx / Kind::ALL.len(), &typefaces);
        let answer = client.ask(&chat(&question)).map(|reply| reply.text);
        Outcome { question, answer }
    };
    let mut table = Table::default();
    let mut saved = Ok(());
    pool::run("questions", n_questions, args.concurrency, ask_one, |idx, outcome| {
        table.count(&outcome);
        if let (Some(folder), false, Ok(())) = (&args.save_wrong, outcome.is_right(), &saved) {
            saved = save(folder, idx, &outcome);
        }
    });
    saved.map(|()| table)
}

/// The request that puts a question.
pub fn chat(question: &Question) -> Chat {
    let pictures = question.pictures.iter().map(|p| (p.encoding.media_type(), p.file()));
    Chat {
        text: question.text.clone(),
        pictures: pictures.collect(),
        max_tokens: MAX_TOKENS,
        ignore_eos: false,
    }
}

/// Saves an outcome as `idx-kind.txt` and its pictures beside it.
fn save(folder: &Path, idx: usize, outcome: &Outcome) -> Result<(), String> {
    let question = &outcome.question;
    let name = format!("{idx:05}-{}", question.kind.name());
    let answer = outcome.answer.as_ref().unwrap_or_else(|error| error);
    let text = format!(
        "asked:    {}\nexpected: {}\nanswered: {answer}\n",
        question.text, question.expected
    );
    save_pictures(folder, &name, question)?;
    write(&folder.join(format!("{name}.txt")), text.as_bytes())
}

/// Saves a question's pictures as `name-1.png` and so on, and answers with their file names.
///
/// Errors: the folder cannot be written to.
pub fn save_pictures(
    folder: &Path,
    name: &str,
    question: &Question,
) -> Result<Vec<String>, String> {
    std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let numbered = question.pictures.iter().zip(1..);
    let saved = numbered.map(|(picture, number)| {
        let file_name = format!("{name}-{number}.{}", picture.encoding.ending());
        write(&folder.join(&file_name), &picture.file()).map(|()| file_name)
    });
    saved.collect()
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    std::fs::write(path, bytes).map_err(|error| format!("{}: {error}", path.display()))
}
