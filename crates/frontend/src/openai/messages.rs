//! The `messages` of a chat: what the template will see of them, and the media they carry.
//!
//! The template never sees an address: a medium is a part `{"type": "image"}` to it.

use super::error::ApiError;
use super::fields::{
    Fields, Parsed, missing, shorten, too_long, unsupported, wrong_type, wrong_value,
};
use super::media_url;
use crate::conversation::Conversation;
use config::frontend::FrontendLimits;
use serde_json::{Map, Value, json};
use types::media::{MediaKind, MediaRef};

const TOOLS: &str = "this server does not call tools";

/// Reads `messages`, `mm_processor_kwargs` and `multi_modal_uuids`.
pub(crate) fn read(fields: &mut Fields, limits: &FrontendLimits) -> Parsed<Conversation> {
    let messages = fields.array("messages")?.ok_or_else(|| missing("messages"))?;
    if messages.is_empty() {
        let message = "Invalid 'messages': empty array. Expected an array with minimum length 1, \
                       but got an empty array instead.";
        return Err(ApiError::invalid("empty_array", "messages", message.to_owned()));
    }
    if messages.len() > limits.n_messages_max {
        return Err(too_long("messages", limits.n_messages_max, messages.len()));
    }
    let options = fields.object("mm_processor_kwargs")?.unwrap_or_default();
    let mut reader = Reader { limits, options, media: Vec::new() };
    let messages = messages
        .into_iter()
        .enumerate()
        .map(|(idx, message)| reader.message(message, &format!("messages[{idx}]")))
        .collect::<Parsed<Vec<_>>>()?;
    let mut conversation = Conversation { messages, media: reader.media };
    name_media(fields, &mut conversation.media)?;
    Ok(conversation)
}

struct Reader<'a> {
    limits: &'a FrontendLimits,
    /// What the request overrides in the model's processor.
    options: Map<String, Value>,
    media: Vec<MediaRef>,
}

impl Reader<'_> {
    fn message(&mut self, message: Value, path: &str) -> Parsed<Value> {
        let mut fields = Fields::of(message, path)?;
        let role = role(&mut fields)?;
        let content = self.content(&mut fields, role)?;
        let mut seen =
            Map::from_iter([("role".to_owned(), role.into()), ("content".to_owned(), content)]);
        if let Some(name) = fields.string("name")? {
            seen.insert("name".to_owned(), name.into());
        }
        if role == "assistant" {
            refuse_calls(&mut fields)?;
        }
        fields.finish()?;
        Ok(Value::Object(seen))
    }

    fn content(&mut self, fields: &mut Fields, role: &'static str) -> Parsed<Value> {
        let path = fields.path("content");
        match fields.take("content") {
            Some(text @ Value::String(_)) => Ok(text),
            Some(Value::Array(parts)) if parts.is_empty() => {
                Err(wrong_value(&path, "an empty array", "at least one content part"))
            }
            Some(Value::Array(parts)) => self.parts(parts, &path, role),
            Some(other) => Err(wrong_type(&path, "a string or an array of content parts", &other)),
            // What an assistant refused to say stands in another field.
            None if role == "assistant" => match fields.string("refusal")? {
                Some(refusal) => Ok(refusal.into()),
                None => Err(missing(&path)),
            },
            None => Err(missing(&path)),
        }
    }

    fn parts(&mut self, parts: Vec<Value>, path: &str, role: &'static str) -> Parsed<Value> {
        let read = |(idx, part)| self.part(part, &format!("{path}[{idx}]"), role);
        parts.into_iter().enumerate().map(read).collect::<Parsed<Vec<_>>>().map(Value::Array)
    }

    fn part(&mut self, part: Value, path: &str, role: &'static str) -> Parsed<Value> {
        let mut fields = Fields::of(part, path)?;
        let kind = fields.required_string("type")?;
        let seen = match (kind.as_str(), role) {
            ("text", _) => json!({"type": "text", "text": fields.required_string("text")?}),
            ("refusal", "assistant") => {
                json!({"type": "text", "text": fields.required_string("refusal")?})
            }
            ("image_url", "user") => self.image(&mut fields)?,
            ("video_url", "user") => self.addressed(&mut fields, "video_url", MediaKind::Video)?,
            ("audio_url", "user") => self.addressed(&mut fields, "audio_url", MediaKind::Audio)?,
            ("input_audio", "user") => self.audio_data(&mut fields)?,
            ("image_url" | "video_url" | "audio_url" | "input_audio", _) => {
                let why = format!("a message of role '{role}' cannot carry media");
                return Err(unsupported(&fields.path("type"), &why));
            }
            (other, _) => {
                let got = format!("'{}'", shorten(other));
                let expected = "one of text, image_url, video_url, audio_url, input_audio";
                return Err(wrong_value(&fields.path("type"), &got, expected));
            }
        };
        fields.finish()?;
        Ok(seen)
    }

    fn image(&mut self, fields: &mut Fields) -> Parsed<Value> {
        let path = fields.path("image_url");
        let mut image = fields.fields("image_url")?.ok_or_else(|| missing(&path))?;
        let detail = image.string("detail")?;
        let low = match detail.as_deref() {
            None | Some("auto" | "high") => false,
            Some("low") => true,
            Some(other) => {
                let got = format!("'{}'", shorten(other));
                return Err(wrong_value(&image.path("detail"), &got, "one of auto, low, high"));
            }
        };
        self.address(image, path, MediaKind::Image, low)
    }

    fn addressed(&mut self, fields: &mut Fields, name: &str, kind: MediaKind) -> Parsed<Value> {
        let path = fields.path(name);
        let inner = fields.fields(name)?.ok_or_else(|| missing(&path))?;
        self.address(inner, path, kind, false)
    }

    /// Reads `{"url": …}`, the last field of the object.
    fn address(
        &mut self,
        mut inner: Fields,
        path: String,
        kind: MediaKind,
        low_detail: bool,
    ) -> Parsed<Value> {
        let url = inner.required_string("url")?;
        self.check_count(&path)?;
        let max = self.limits.media_file_bytes_max;
        let source = media_url::source(&url, kind, max, &inner.path("url"))?;
        inner.finish()?;
        let processor_options = self.options_of(low_detail);
        self.media.push(MediaRef { kind, source, uuid: None, processor_options, param: path });
        Ok(json!({"type": kind.name()}))
    }

    fn audio_data(&mut self, fields: &mut Fields) -> Parsed<Value> {
        let param = fields.path("input_audio");
        let mut audio = fields.fields("input_audio")?.ok_or_else(|| missing(&param))?;
        // The bytes say what they are.
        audio.required_string("format")?;
        let data = audio.required_string("data")?;
        self.check_count(&param)?;
        let max = self.limits.media_file_bytes_max;
        let source = media_url::base64(&data, max, &audio.path("data"))?;
        audio.finish()?;
        let kind = MediaKind::Audio;
        let processor_options = self.options_of(false);
        self.media.push(MediaRef { kind, source, uuid: None, processor_options, param });
        Ok(json!({"type": kind.name()}))
    }

    fn check_count(&self, path: &str) -> Parsed<()> {
        let most = self.limits.n_media_max;
        if self.media.len() == most {
            let message =
                format!("A request may carry at most {most} media; '{path}' is one more.");
            return Err(ApiError::invalid("too_many_media", path, message));
        }
        Ok(())
    }

    /// The item's processor options as canonical JSON: sorted keys, no spaces.
    fn options_of(&self, low_detail: bool) -> String {
        let mut options = self.options.clone();
        if low_detail {
            options.insert("detail".to_owned(), "low".into());
        }
        sorted(Value::Object(options)).to_string()
    }
}

/// The role in the template's words.
fn role(fields: &mut Fields) -> Parsed<&'static str> {
    let path = fields.path("role");
    match fields.required_string("role")?.as_str() {
        // What OpenAI renamed for its newer models.
        "system" | "developer" => Ok("system"),
        "user" => Ok("user"),
        "assistant" => Ok("assistant"),
        "tool" | "function" => Err(unsupported(&path, TOOLS)),
        other => {
            let got = format!("'{}'", shorten(other));
            Err(wrong_value(&path, &got, "one of system, developer, user, assistant"))
        }
    }
}

/// Fields of an assistant's turn that are accepted only when they say nothing.
fn refuse_calls(fields: &mut Fields) -> Parsed<()> {
    if fields.array("tool_calls")?.is_some_and(|calls| !calls.is_empty()) {
        return Err(unsupported(&fields.path("tool_calls"), TOOLS));
    }
    if fields.take("function_call").is_some() {
        return Err(unsupported(&fields.path("function_call"), TOOLS));
    }
    if fields.take("audio").is_some() {
        return Err(unsupported(&fields.path("audio"), "this server does not produce sound"));
    }
    if fields.string("refusal")?.is_some_and(|refusal| !refusal.is_empty()) {
        return Err(unsupported(&fields.path("refusal"), "the message has content already"));
    }
    fields.array("annotations").map(drop)
}

/// Reads `multi_modal_uuids`: a string or null for each medium, in order.
fn name_media(fields: &mut Fields, media: &mut [MediaRef]) -> Parsed<()> {
    const UUID_BYTES_MAX: usize = 256;
    let path = "multi_modal_uuids";
    let Some(uuids) = fields.array(path)? else { return Ok(()) };
    if uuids.len() != media.len() {
        let got = format!("{} items", uuids.len());
        return Err(wrong_value(path, &got, &format!("one for each of {} media", media.len())));
    }
    for (idx, (uuid, medium)) in uuids.into_iter().zip(media).enumerate() {
        let path = format!("{path}[{idx}]");
        medium.uuid = match uuid {
            Value::Null => None,
            Value::String(uuid) if uuid.len() <= UUID_BYTES_MAX => Some(uuid),
            Value::String(_) => {
                let expected = format!("at most {UUID_BYTES_MAX} bytes");
                return Err(wrong_value(&path, "a longer string", &expected));
            }
            other => return Err(wrong_type(&path, "a string or null", &other)),
        };
    }
    Ok(())
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.into_iter().collect();
            entries.sort_by(|(left, _), (right, _)| left.cmp(right));
            entries.into_iter().map(|(key, value)| (key, sorted(value))).collect()
        }
        Value::Array(items) => items.into_iter().map(sorted).collect(),
        leaf @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => leaf,
    }
}
