//! The body of `POST /v1/chat/completions`, every field of it.

use super::error::ApiError;
use super::fields::{Fields, Parsed, unsupported, wrong_value};
use super::{messages, neutral, sampling};
use crate::conversation::{ChatRequest, Delivery, Rendering};
use config::frontend::FrontendLimits;
use serde_json::Value;

const CACHE_SALT_BYTES_MAX: usize = 256;

/// Reads a request from the bytes of its body.
pub(crate) fn read(body: &[u8], limits: &FrontendLimits) -> Parsed<ChatRequest> {
    let value: Value = serde_json::from_slice(body).map_err(|error| {
        let message = format!(
            "The request body is not valid JSON (line {}, column {}).",
            error.line(),
            error.column()
        );
        ApiError { param: None, ..ApiError::invalid("invalid_json", "", message) }
    })?;
    let mut fields = Fields::of(value, "")?;
    let request = ChatRequest {
        model: fields.required_string("model")?,
        conversation: messages::read(&mut fields, limits)?,
        wishes: sampling::read(&mut fields, limits)?,
        rendering: rendering(&mut fields)?,
        delivery: delivery(&mut fields)?,
        cache_salt: cache_salt(&mut fields)?,
    };
    neutral::check(&mut fields)?;
    fields.finish()?;
    Ok(request)
}

fn rendering(fields: &mut Fields) -> Parsed<Rendering> {
    Ok(Rendering {
        add_generation_prompt: fields.boolean("add_generation_prompt")?.unwrap_or(true),
        template_kwargs: fields.object("chat_template_kwargs")?.unwrap_or_default(),
    })
}

fn delivery(fields: &mut Fields) -> Parsed<Delivery> {
    let stream = fields.boolean("stream")?.unwrap_or(false);
    let Some(mut options) = fields.fields("stream_options")? else {
        return Ok(Delivery { stream, include_usage: false });
    };
    if !stream {
        return Err(unsupported("stream_options", "it is for requests with 'stream': true"));
    }
    let include_usage = options.boolean("include_usage")?.unwrap_or(false);
    if options.boolean("include_obfuscation")? == Some(true) {
        let path = options.path("include_obfuscation");
        return Err(unsupported(&path, "this server does not pad its events"));
    }
    options.finish()?;
    Ok(Delivery { stream, include_usage })
}

fn cache_salt(fields: &mut Fields) -> Parsed<String> {
    let salt = fields.string("cache_salt")?.unwrap_or_default();
    if salt.len() > CACHE_SALT_BYTES_MAX {
        let expected = format!("at most {CACHE_SALT_BYTES_MAX}");
        return Err(wrong_value("cache_salt", &format!("{} bytes", salt.len()), &expected));
    }
    Ok(salt)
}
