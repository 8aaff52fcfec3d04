//! What templates of the hub use of Jinja and Python, held against Jinja2 (see `jinja.py`).

use serde_json::Value;
use text::{ChatTemplate, RenderOptions};
use types::card::ModelCard;

#[test]
fn templates_render_as_with_jinja2() {
    let file: Value = serde_json::from_str(include_str!("jinja.json")).expect("JSON");
    let cases = file["cases"].as_array().expect("cases");
    assert!(cases.len() >= 48);
    for case in cases {
        check(&file["variables"], case[0].as_str().expect("a template"), &case[1]);
    }
}

fn check(variables: &Value, source: &str, expected: &Value) {
    let tokens = serde_json::to_vec(variables).expect("JSON");
    let card = ModelCard {
        template_override: Some(source.into()),
        files: vec![("tokenizer_config.json".into(), tokens)],
        ..ModelCard::default()
    };
    let options = RenderOptions {
        add_generation_prompt: variables["add_generation_prompt"] == true,
        tools: Some(variables["tools"].clone()),
        ..RenderOptions::default()
    };
    let template = ChatTemplate::from_card(&card).expect(source);
    let rendered = template.render(&variables["messages"], &options).expect(source);
    assert_eq!(expected, &rendered, "{source}");
}
