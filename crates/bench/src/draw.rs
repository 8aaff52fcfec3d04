//! Draws the evaluation's questions into a folder: for looking at them, and for other programs.

use crate::eval::questions::{Kind, question};
use crate::eval::save_pictures;
use crate::pictures::digits::Typefaces;
use serde_json::json;
use std::path::PathBuf;

/// What to draw.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The folder.
    #[arg(long)]
    pub out: PathBuf,
    /// Questions of each kind.
    #[arg(long, default_value_t = 25)]
    pub n: usize,
    /// Other seeds give other pictures.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Writes the pictures, and `questions.jsonl` with kind, question, answer and picture files.
pub fn run(args: &Args) -> Result<(), String> {
    let typefaces = Typefaces::installed()?;
    let mut lines = String::new();
    for idx in 0..args.n {
        for kind in Kind::ALL {
            let question = question(kind, args.seed, idx, &typefaces);
            let name = format!("{}-{idx:04}", kind.name());
            let row = json!({
                "kind": kind.name(),
                "question": question.text,
                "answer": question.expected.to_string(),
                "pictures": save_pictures(&args.out, &name, &question)?,
            });
            lines.push_str(&format!("{row}\n"));
        }
    }
    let path = args.out.join("questions.jsonl");
    std::fs::write(&path, lines).map_err(|error| format!("{}: {error}", path.display()))
}
