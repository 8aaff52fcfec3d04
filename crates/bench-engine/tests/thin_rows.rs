//! Thin rows of a small model on the processor: named, timed, and written as JSON.

use bench_engine::{Command, run};
use clap::Parser;
use serde_json::Value;
use std::path::PathBuf;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

fn tree() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// What a run with these arguments writes.
fn measured(name: &str, model: &str, arguments: &[&str]) -> types::Result<Value> {
    let json = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.json"));
    let model = tree().join(model);
    let all = [
        &["bench"][..],
        arguments,
        &["--device", "cpu", "--threads", "2"],
        &["--model-path", model.to_str().unwrap(), "--json", json.to_str().unwrap()],
    ];
    run(&Cli::parse_from(all.concat()).command)?;
    Ok(serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap())
}

fn number(value: &Value) -> f64 {
    let number = value.as_f64().unwrap_or_else(|| panic!("no number: {value}"));
    assert!(number.is_finite() && number > 0.0, "{number}");
    number
}

#[test]
fn every_kind_of_row_has_figures() {
    let rows = ["decode-2", "decode-3x40", "prefill-2x48", "image-112", "images-3x56"];
    let engine = ["engine", "--rows", &rows.join(","), "--runs", "2", "--max-num-tokens", "512"];
    let all = measured("rows", "models/shapes", &engine).unwrap();
    let found = all["rows"].as_array().unwrap();
    assert_eq!(found.iter().map(|row| row["name"].as_str().unwrap()).collect::<Vec<_>>(), rows);
    for row in found {
        assert_eq!(row["runs"].as_array().unwrap().len(), 2);
        ["median", "ceiling", "share"].iter().for_each(|key| assert!(number(&row[*key]) > 0.0));
        assert_eq!(row["answer_tokens_same"], row["answer_tokens_compared"], "{row}");
        number(&row["answer_tokens_compared"]);
    }
    assert_eq!(found[3]["patches"], 64);
    assert_eq!(found[3]["prompt_tokens"], 16 + 19);
    number(&all["ceilings"]["read_bytes_per_s"]);
    number(&all["start"]["first_token_s"]);
    number(&all["memory"]["host_bytes"]);
}

#[test]
fn a_row_that_does_not_fit_is_left_out_in_words() {
    let engine = ["engine", "--rows", "prefill-1x9000,prefill-1x8", "--runs", "1"];
    let all = measured("left_out", "models/shapes/config.json", &engine).unwrap();
    assert_eq!(all["rows"].as_array().unwrap().len(), 1);
    let why = all["left_out"]["prefill-1x9000"].as_str().unwrap();
    assert!(why.contains("context"), "{why}");
}

#[test]
fn operations_are_right_and_timed() {
    let filter = "lm_head,256 rows 8,tower 576,decode 64x256,prefill 1x128,norm,sampling 1x";
    let all = measured("ops", "models/shapes", &["ops", "--filter", filter]).unwrap();
    let operations = all["operations"].as_array().unwrap();
    for kind in ["gate_up", "lm_head", "decode 64x256", "prefill 1x128", "tower 576", "layer_norm"]
    {
        let is_kind = |row: &&Value| row["name"].as_str().unwrap().contains(kind);
        let row = operations.iter().find(is_kind).unwrap_or_else(|| panic!("no {kind}"));
        number(&row["us"]);
        number(&row["share"]);
        assert!(row["error"].as_f64().unwrap() < 1e-4, "{row}");
    }
}

#[test]
fn what_cannot_be_measured_is_said() {
    let check = |arguments: &[&str], model: &str, expected: &str| {
        let error = measured("refused", model, arguments).unwrap_err();
        assert!(error.message.contains(expected), "{error}");
    };
    check(&["engine", "--rows", "speed"], "models/shapes", "--rows speed");
    check(&["engine"], "models/none", "no folder");
    check(&["engine", "--dtype", "bf16"], "models/shapes", "computes in f32");
    check(&["ops", "--filter", "nothing"], "models/shapes", "--filter");
}
