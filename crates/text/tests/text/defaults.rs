//! A model's own defaults.

use crate::common::{card, golden_card};
use text::GenerationDefaults;

#[test]
fn defaults_are_read_where_the_model_says_them() {
    let check = |own: &str, config: &str, expected: GenerationDefaults| {
        let card = card(&[("generation_config.json", own), ("config.json", config)]);
        assert_eq!(GenerationDefaults::from_card(&card), Ok(expected), "{own} {config}");
    };
    let none = GenerationDefaults::default();
    let eos = |ids: &[u32]| GenerationDefaults { eos_token_ids: ids.to_vec(), ..none.clone() };
    check("{}", "{}", none.clone());
    check(r#"{"eos_token_id": 2}"#, r#"{"eos_token_id": 3}"#, eos(&[2]));
    check(r#"{"eos_token_id": [2, 4]}"#, "{}", eos(&[2, 4]));
    check("{}", r#"{"eos_token_id": 3}"#, eos(&[3]));
    check("{}", r#"{"text_config": {"eos_token_id": 5}}"#, eos(&[5]));
    check(
        r#"{"eos_token_id": null}"#,
        r#"{"eos_token_id": null, "text_config": {"eos_token_id": [6]}}"#,
        eos(&[6]),
    );
    let greedy = GenerationDefaults { temperature: Some(0.0), top_p: Some(0.9), ..none.clone() };
    check(r#"{"do_sample": false, "temperature": 0.7, "top_p": 0.9}"#, "{}", greedy);
    let sampled = GenerationDefaults {
        temperature: Some(0.5),
        top_k: Some(20),
        min_p: Some(0.25),
        repetition_penalty: Some(1.5),
        ..none
    };
    let file = r#"{"do_sample": true, "temperature": 0.5, "top_k": 20, "min_p": 0.25,
        "repetition_penalty": 1.5}"#;
    check(file, "{}", sampled);
}

#[test]
fn the_goldens_defaults_are_read() {
    let card = golden_card("checkpoint", &["generation_config.json", "config.json"]);
    let defaults = GenerationDefaults::from_card(&card).expect("defaults");
    assert_eq!(defaults.eos_token_ids, [348, 346]);
    assert_eq!(
        (defaults.temperature, defaults.top_p, defaults.top_k),
        (Some(0.01), Some(0.001), Some(1))
    );
}

#[test]
fn broken_files_are_refused() {
    assert!(
        GenerationDefaults::from_card(&card(&[("generation_config.json", "nonsense")])).is_err()
    );
}
