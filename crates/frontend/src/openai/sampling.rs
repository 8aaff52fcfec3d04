//! The fields that say how tokens are chosen and when the answer ends.

use super::error::ApiError;
use super::fields::{self, Fields, Parsed, shorten, too_long, wrong_type, wrong_value};
use crate::conversation::SamplingWishes;
use config::frontend::FrontendLimits;
use serde_json::Value;

const LOGIT_BIASES_MAX: usize = 1024;
const STOP_TOKENS_MAX: usize = 256;
const TOP_LOGPROBS_MAX: i64 = 20;
const TOKEN_MAX: i64 = u32::MAX as i64;

/// Reads all of them.
pub(crate) fn read(fields: &mut Fields, limits: &FrontendLimits) -> Parsed<SamplingWishes> {
    let wishes = SamplingWishes {
        temperature: fields.number("temperature", 0.0..=2.0)?,
        top_p: fields.number("top_p", 0.0..=1.0)?,
        // -1 is another word for 0: all tokens.
        top_k: fields.integer("top_k", -1..=TOKEN_MAX)?.map(|k| k.max(0) as u32),
        min_p: fields.number("min_p", 0.0..=1.0)?,
        repetition_penalty: fields.number("repetition_penalty", 0.01..=100.0)?,
        presence_penalty: fields.number("presence_penalty", -2.0..=2.0)?.unwrap_or(0.0),
        frequency_penalty: fields.number("frequency_penalty", -2.0..=2.0)?.unwrap_or(0.0),
        logit_bias: logit_bias(fields)?,
        seed: fields.integer("seed", i64::MIN..=i64::MAX)?.map(|seed| seed as u64),
        n: fields.integer("n", 1..=limits.n_choices_max as i64)?.unwrap_or(1) as u32,
        max_tokens: max_tokens(fields)?,
        min_tokens: fields.integer("min_tokens", 0..=TOKEN_MAX)?.unwrap_or(0) as u32,
        ignore_eos: fields.boolean("ignore_eos")?.unwrap_or(false),
        stop_token_ids: stop_token_ids(fields)?,
        stop: stop(fields, limits)?,
        logprobs: logprobs(fields)?,
        skip_special_tokens: fields.boolean("skip_special_tokens")?.unwrap_or(true),
    };
    if wishes.max_tokens.is_some_and(|max| wishes.min_tokens > max) {
        let got = wishes.min_tokens.to_string();
        return Err(wrong_value("min_tokens", &got, "at most max_tokens"));
    }
    Ok(wishes)
}

/// The newer name and the older one mean the same.
fn max_tokens(fields: &mut Fields) -> Parsed<Option<u32>> {
    let newer = fields.integer("max_completion_tokens", 1..=TOKEN_MAX)?;
    let older = fields.integer("max_tokens", 1..=TOKEN_MAX)?;
    match (newer, older) {
        (Some(newer), Some(older)) if newer != older => {
            let expected = "the same as max_completion_tokens, or nothing";
            Err(wrong_value("max_tokens", &older.to_string(), expected))
        }
        (newer, older) => Ok(newer.or(older).map(|tokens| tokens as u32)),
    }
}

fn logprobs(fields: &mut Fields) -> Parsed<Option<u32>> {
    let wanted = fields.boolean("logprobs")?.unwrap_or(false);
    let top = fields.integer("top_logprobs", 0..=TOP_LOGPROBS_MAX)?;
    match (wanted, top) {
        (false, Some(1..)) => {
            let message = "'top_logprobs' needs 'logprobs' to be true.".to_owned();
            Err(ApiError::invalid("invalid_value", "top_logprobs", message))
        }
        (false, _) => Ok(None),
        (true, top) => Ok(Some(top.unwrap_or(0) as u32)),
    }
}

/// `{"<token id>": bias}`
fn logit_bias(fields: &mut Fields) -> Parsed<Vec<(u32, f32)>> {
    let Some(map) = fields.object("logit_bias")? else { return Ok(Vec::new()) };
    if map.len() > LOGIT_BIASES_MAX {
        let got = format!("{} tokens", map.len());
        return Err(wrong_value("logit_bias", &got, &format!("at most {LOGIT_BIASES_MAX}")));
    }
    map.iter()
        .map(|(token, bias)| {
            let token = shorten(token);
            let path = format!("logit_bias.{token}");
            let id = token.parse().map_err(|_| {
                wrong_value("logit_bias", &format!("the key '{token}'"), "token ids as keys")
            })?;
            Ok((id, fields::number(&path, bias, -100.0..=100.0)?))
        })
        .collect()
}

fn stop_token_ids(fields: &mut Fields) -> Parsed<Vec<u32>> {
    let path = "stop_token_ids";
    let ids = fields.array(path)?.unwrap_or_default();
    if ids.len() > STOP_TOKENS_MAX {
        return Err(too_long(path, STOP_TOKENS_MAX, ids.len()));
    }
    let token = |(idx, id): (usize, &Value)| {
        fields::integer(&format!("{path}[{idx}]"), id, 0..=TOKEN_MAX).map(|id| id as u32)
    };
    ids.iter().enumerate().map(token).collect()
}

/// A string or an array of them.
fn stop(fields: &mut Fields, limits: &FrontendLimits) -> Parsed<Vec<String>> {
    let strings = match fields.take("stop") {
        None => return Ok(Vec::new()),
        Some(text @ Value::String(_)) => vec![text],
        Some(Value::Array(strings)) => strings,
        Some(other) => return Err(wrong_type("stop", "a string or an array of strings", &other)),
    };
    if strings.len() > limits.n_stop_strings_max {
        return Err(too_long("stop", limits.n_stop_strings_max, strings.len()));
    }
    let one = |(idx, text)| stop_string(&format!("stop[{idx}]"), text, limits);
    strings.into_iter().enumerate().map(one).collect()
}

fn stop_string(path: &str, text: Value, limits: &FrontendLimits) -> Parsed<String> {
    let Value::String(text) = text else { return Err(wrong_type(path, "a string", &text)) };
    let most = limits.stop_string_bytes_max;
    match text.len() {
        0 => Err(wrong_value(path, "an empty string", "at least one character")),
        len if len > most => {
            Err(wrong_value(path, &format!("{len} bytes"), &format!("at most {most}")))
        }
        _ => Ok(text),
    }
}
