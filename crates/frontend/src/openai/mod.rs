//! OpenAI's API: the only place that knows its shapes.

pub(crate) mod chunk;
pub(crate) mod completion;
pub(crate) mod error;
mod fields;
mod logprobs;
mod media_url;
mod messages;
pub(crate) mod model_list;
mod neutral;
pub(crate) mod request;
mod sampling;
