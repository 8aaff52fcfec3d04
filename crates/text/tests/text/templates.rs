//! The goldens' templates render as in the reference, from each place that may hold one.

use crate::common::{card, golden_card, json, list, text};
use serde_json::{Value, json};
use text::{ChatTemplate, RenderOptions};
use types::ErrorKind;
use types::card::ModelCard;

#[test]
fn goldens_render_as_in_the_reference() {
    for (folder, n_cases_min) in [
        ("template", 50),
        ("../llava/template", 40),
        ("../llava_next/template", 20),
        ("../llava_next/template_vicuna", 40),
    ] {
        let index = json(&format!("{folder}/index.json"));
        for (_, path) in index["places"].as_object().expect("places") {
            let path = path.as_str().expect("a path");
            let template = ChatTemplate::from_card(&golden_card(folder, &[path])).expect(path);
            let cases = list(&index, "cases");
            assert!(cases.len() >= n_cases_min, "{folder}: {}", cases.len());
            cases.iter().for_each(|case| check_golden(&template, case));
        }
    }
}

fn check_golden(template: &ChatTemplate, case: &Value) {
    let options = RenderOptions {
        add_generation_prompt: case["add_generation_prompt"] == true,
        kwargs: case["kwargs"].as_object().expect("kwargs").clone(),
        ..RenderOptions::default()
    };
    let rendered = template.render(&case["messages"], &options);
    assert_eq!(rendered.as_deref(), Ok(text(case, "text")), "{}", text(case, "name"));
}

#[test]
fn the_first_place_that_has_a_template_is_taken() {
    const JINJA: (&str, &str) = ("chat_template.jinja", "jinja");
    const JSON: (&str, &str) = ("chat_template.json", r#"{"chat_template": "json"}"#);
    const CONFIG: (&str, &str) = ("tokenizer_config.json", r#"{"chat_template": "config"}"#);
    const NAMED: (&str, &str) = (
        "tokenizer_config.json",
        r#"{"chat_template": [{"name": "tool_use", "template": "tools"},
            {"name": "default", "template": "named"}]}"#,
    );
    let check =
        |files: &[(&str, &str)], given: Option<&str>, tools: Option<Value>, expected: &str| {
            let card = ModelCard { template_override: given.map(str::to_owned), ..card(files) };
            let options = RenderOptions { tools, ..RenderOptions::default() };
            let template = ChatTemplate::from_card(&card).expect(expected);
            assert_eq!(template.render(&json!([]), &options).as_deref(), Ok(expected));
        };
    check(&[JINJA, JSON, CONFIG], Some("override"), None, "override");
    check(&[JINJA, JSON, CONFIG], None, None, "jinja");
    check(&[JSON, CONFIG], None, None, "json");
    check(&[CONFIG], None, None, "config");
    check(&[NAMED], None, None, "named");
    check(&[NAMED], None, Some(json!([])), "tools");
    let none = ChatTemplate::from_card(&card(&[("tokenizer_config.json", "{}")])).err();
    assert_eq!(none.map(|error| error.kind), Some(ErrorKind::NotFound));
}

#[test]
fn failures_say_what_failed() {
    let check = |source: &str, expected: &str| {
        let given = ModelCard { template_override: Some(source.into()), ..ModelCard::default() };
        let rendered = ChatTemplate::from_card(&given).and_then(|template| {
            template.render(&json!([{"role": "user"}]), &RenderOptions::default())
        });
        let error = rendered.expect_err(source);
        assert_eq!(error.kind, ErrorKind::InvalidInput);
        assert!(error.message.contains(expected), "{source}: {error}");
    };
    check("{{ raise_exception('Roles must alternate') }}", "Roles must alternate");
    check("\n{% if %}", "line 2");
    check("{{ nothing.at_all }}", "undefined");
    check("{{ 'x'.no_such_method() }}", "unknown method");
    check(
        "{% for a in range(9999) %}{% for b in range(9999) %}{{ b }}{% endfor %}{% endfor %}",
        "too much",
    );
    check("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion");
    check("{{ 'x' * 99999999999 }}", "chat template failed");
    let options = RenderOptions {
        kwargs: [("messages".to_owned(), json!([]))].into_iter().collect(),
        ..RenderOptions::default()
    };
    let given = ModelCard { template_override: Some("x".into()), ..ModelCard::default() };
    let template = ChatTemplate::from_card(&given).expect("a template");
    let error = template.render(&json!([]), &options).expect_err("a reserved name");
    assert_eq!(error.param.as_deref(), Some("chat_template_kwargs"));
}
