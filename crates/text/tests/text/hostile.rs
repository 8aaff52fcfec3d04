//! Templates that mean harm: whatever they do, rendering ends soon, in little memory, with words.

use crate::common::card;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use text::{ChatTemplate, RenderOptions};

/// Longest time for one, unoptimised and beside a build.
const PATIENCE: Duration = Duration::from_secs(10);

const TOO_MUCH: &str = "it asks for too much work";

fn render(source: &str, messages: &Value) -> Result<String, String> {
    let template = ChatTemplate::from_card(&card(&[("chat_template.jinja", source)]));
    let rendered =
        template.and_then(|template| template.render(messages, &RenderOptions::default()));
    rendered.map_err(|error| error.message)
}

/// Begins with a text of 64 bytes and does `what` to it a hundred times.
fn repeatedly(what: &str) -> String {
    let start = "{% set ns = namespace(x='aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' * 2, l=[1]) %}";
    format!("{start}{{% for i in range(100) %}}{what}{{% endfor %}}{{{{ ns.x | length }}}}")
}

#[track_caller]
fn check_refused(source: &str, words: &str) {
    let start = Instant::now();
    let failure = render(source, &json!([{"role": "user", "content": "Hi"}]));
    let shown: String = source.chars().take(200).collect();
    let failure = failure.expect_err(&shown);
    assert!(failure.contains(words), "{shown}: {failure}");
    assert!(start.elapsed() < PATIENCE, "{shown}: {:?}", start.elapsed());
}

#[test]
fn texts_that_double_are_too_much() {
    for what in [
        "{% set ns.x = ns.x ~ ns.x %}",
        "{% set ns.x = ns.x + ns.x %}",
        "{% set ns.x = ns.x * 2 %}",
        "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}",
        "{% set ns.x = [ns.x, ns.x] | join(ns.x) %}",
        "{% set ns.x = ns.x.join([ns.x, ns.x]) %}",
        "{% set ns.x = ns.x | replace('a', 'aa') %}",
        "{% set ns.x = ns.x.replace('a', 'aa') %}",
        "{% set ns.x = ns.x | replace('', ns.x) %}",
        "{% set ns.x = '%s%s' | format(ns.x, ns.x) %}",
        "{% set ns.x = ns.x | tojson | tojson %}",
        "{% set ns.x = [ns.x] | map('replace', 'a', 'aa') | first %}",
        "{% set ns.l = [ns.l, ns.l] %}{{ ns.l }}",
        "{% set ns.l = {'a': ns.l, 'b': ns.l} %}",
        "{% set ns.l = ns.l + ns.l %}",
        "{% set ns.l = (ns.l * 2) | list %}",
    ] {
        check_refused(&repeatedly(what), TOO_MUCH);
    }
    let calls = "{% macro f(n, s) %}{{ f(n - 1, s ~ s) if n else s }}{% endmacro %}";
    let start = "{% set s = 'a' * 9999 %}{{ f(24, s) }}";
    check_refused(&format!("{calls}{start}"), TOO_MUCH);
}

#[test]
fn work_without_end_is_too_much() {
    let large = "{% set s = 'a' * 9999 * 1 %}{% set s = s ~ s ~ s ~ s ~ s ~ s ~ s ~ s ~ s ~ s %}";
    for what in [
        "{% if s | upper == 'b' %}{% endif %}",
        "{% if s.upper() == 'b' %}{% endif %}",
        "{% if s[1:] == 'b' %}{% endif %}",
        "{% if s == t %}{% endif %}",
        "{{ s }}",
        "{% set ns.l = ns.l + [s[1:]] %}",
    ] {
        let more = "{% set t = s ~ '' %}{% set ns = namespace(l=[]) %}";
        let source = format!("{large}{more}{{% for i in range(100000) %}}{what}{{% endfor %}}");
        check_refused(&source, TOO_MUCH);
    }
    check_refused("{{ 'a\nb' | indent(999999999999) }}", TOO_MUCH);
    let indented = "{% set s = 'c' * 9999 %}{{ range(9999) | list | tojson(indent=s) }}";
    check_refused(indented, TOO_MUCH);
    let squares = "{% set s = 'c' * 9999 %}{{ s | replace('', s) | replace('', s) }}";
    check_refused(squares, TOO_MUCH);
}

#[test]
fn what_nests_too_deeply_is_refused() {
    check_refused(&repeatedly("{% set ns.l = [ns.l] %}"), "nested too deeply");
    check_refused(&repeatedly("{% set ns.l = (ns.l,) %}"), "nested too deeply");
    check_refused(&repeatedly("{% set ns.l = {'a': ns.l} %}"), "nested too deeply");
    check_refused("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", "recursion");
    let parentheses = format!("{{{{ {}1{} }}}}", "(".repeat(500), ")".repeat(500));
    check_refused(&parentheses, "more than 512 parts");
}

#[test]
fn what_is_too_much_for_the_compiler_is_refused() {
    let sum = |n: usize| format!("{{{{ 1{} }}}}", " + 1".repeat(n));
    assert_eq!(render(&sum(200), &json!([])).as_deref(), Ok("201"));
    check_refused(&sum(10_000), "more than 512 parts");
    check_refused("{{ 'a' * 99999999 }}", "multiplies by more than 10,000");
    check_refused("{{ [1] * 999 * 999 }}", "multiplies by more than 10,000");
    check_refused("{{ 2 ** 99999 }}", "multiplies by more than 10,000");
    check_refused(&"a".repeat(300 << 10), "more than 256 KiB");
}

#[test]
fn a_refusal_of_its_own_is_cut_short() {
    let words = render("{{ raise_exception('no' * 1000) }}", &json!([])).unwrap_err();
    assert_eq!(words, "no".repeat(200));
}

#[test]
fn large_conversations_are_not_too_much() {
    let shapes = include_str!("../../../../models/shapes/chat_template.jinja");
    let content = "words ".repeat(2_000_000);
    let text = render(shapes, &json!([{"role": "user", "content": content}]));
    assert!(text.unwrap().len() > content.len());
    let messages: Vec<_> = (0..2048).map(|_| json!({"role": "user", "content": "Hi"})).collect();
    let text = render(shapes, &Value::from(messages)).unwrap();
    assert_eq!(text.matches("<|im_start|>user").count(), 2048);
}
