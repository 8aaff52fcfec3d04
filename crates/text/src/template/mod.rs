//! Chat templates: messages to a prompt, as Hugging Face renders them with Jinja.

mod content;
mod environment;
mod filters;
mod meter;
mod namespaces;
mod python_json;
mod python_methods;
mod source;
mod strftime;

use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind as JinjaErrorKind, Value as JinjaValue};
use serde_json::{Map, Value};
use source::Sources;
use std::collections::BTreeMap;
use types::card::ModelCard;
use types::{Error, Result};

/// Names under which an environment keeps its templates.
const DEFAULT: &str = "chat";
const TOOL_USE: &str = "tools";

/// What rendering needs besides the messages.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RenderOptions {
    /// End the prompt where the assistant's answer begins.
    pub add_generation_prompt: bool,
    /// The tools' schemas, a list, where there are any.
    pub tools: Option<Value>,
    /// Documents to answer from, a list, where there are any.
    pub documents: Option<Value>,
    /// Further variables of the template (`chat_template_kwargs`).
    pub kwargs: Map<String, Value>,
}

/// A model's template, compiled.
pub struct ChatTemplate {
    environment: Environment<'static>,
    has_tool_use: bool,
    /// Whether text alone must be given as a part.
    wants_parts: bool,
    /// `bos_token`, `eos_token` and their like, by name.
    tokens: BTreeMap<String, JinjaValue>,
}

impl ChatTemplate {
    /// Takes the first there is of: the card's override, `chat_template.jinja`,
    /// `chat_template.json`, the `chat_template` of `tokenizer_config.json`.
    ///
    /// Errors: there is none, or it is no template; the message says where.
    pub fn from_card(card: &ModelCard) -> Result<Self> {
        let Sources { default, tool_use, tokens } = Sources::from_card(card)?;
        let mut environment = environment::new();
        let has_tool_use = tool_use.is_some();
        let named = [(DEFAULT, Some(default)), (TOOL_USE, tool_use)];
        for (name, source) in named.into_iter().filter_map(|(name, source)| Some((name, source?))) {
            let source = environment::without_generation_tags(&source);
            meter::check_source(&source, environment::syntax()).map_err(|error| failure(&error))?;
            environment.add_template_owned(name, source).map_err(|error| failure(&error))?;
        }
        let mut template = Self { environment, has_tool_use, wants_parts: false, tokens };
        template.wants_parts = content::wants_parts(&template);
        Ok(template)
    }

    /// Renders `messages`, a list of `{"role", "content"}` in JSON; a content is a string or a list
    /// of parts such as `{"type": "text", "text"}` and `{"type": "image"}`. A template that shows
    /// the words of parts only is given a string as a part.
    ///
    /// In the result nothing tells the template's special tokens from those that a client wrote:
    /// what clients send goes through [`crate::tokenize_chat`].
    ///
    /// Errors: `InvalidInput` where the template refuses the messages (with its own words), fails
    /// on them, or asks for too much work; a keyword argument that is no option.
    pub fn render(&self, messages: &Value, options: &RenderOptions) -> Result<String> {
        if self.wants_parts {
            return self.render_given(&content::in_parts(messages), options);
        }
        self.render_given(messages, options)
    }

    /// [`Self::render`], the messages as they are.
    fn render_given(&self, messages: &Value, options: &RenderOptions) -> Result<String> {
        let mut variables = self.tokens.clone();
        for (name, value) in &options.kwargs {
            variables.insert(name.clone(), JinjaValue::from(Serde(value)));
        }
        let own = [
            ("messages", JinjaValue::from(Serde(messages))),
            ("tools", JinjaValue::from(Serde(&options.tools))),
            ("documents", JinjaValue::from(Serde(&options.documents))),
            ("add_generation_prompt", options.add_generation_prompt.into()),
        ];
        for (name, value) in own {
            if options.kwargs.contains_key(name) {
                return Err(Error::invalid(format!("'{name}' is no option of the chat template"))
                    .at("chat_template_kwargs"));
            }
            variables.insert(name.into(), value);
        }
        let name = if self.has_tool_use && options.tools.is_some() { TOOL_USE } else { DEFAULT };
        let template = self.environment.get_template(name).map_err(|error| failure(&error))?;
        let rendered = meter::render(&self.environment, &template, variables);
        rendered.map_err(|error| failure(&error))
    }
}

/// The error of a template, for the client: its own words, or where and how it failed.
fn failure(error: &minijinja::Error) -> Error {
    /// A template may say whatever it likes, but not endlessly.
    const CHARS_MAX: usize = 400;
    let words = environment::raised(error).unwrap_or_else(|| failed(error));
    Error::invalid(words.chars().take(CHARS_MAX).collect::<String>()).at("messages")
}

/// Where and how a template failed.
fn failed(error: &minijinja::Error) -> String {
    let line = error.line().map(|line| format!(" in line {line}")).unwrap_or_default();
    let what = match error.kind() {
        JinjaErrorKind::OutOfFuel => "it asks for too much work".to_owned(),
        kind => error.detail().map_or(kind.to_string(), |detail| format!("{kind}: {detail}")),
    };
    format!("the chat template failed{line}: {what}")
}
