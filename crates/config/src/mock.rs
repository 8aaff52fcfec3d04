//! What computes the tokens: the model, or an engine without one, of which is said how long its
//! steps take and what it says.

use clap::ValueEnum;
use std::time::Duration;

/// What users write about what computes the tokens.
#[derive(Debug, Clone, clap::Args)]
pub struct EngineKindFlags {
    /// What computes the tokens; `mock` needs no weights.
    #[arg(
        long = "engine",
        env = "TRIPTYCH_ENGINE",
        value_enum,
        default_value_t = EngineChoice::Native,
        help_heading = "Engine"
    )]
    pub engine_kind: EngineChoice,
    /// The mock engine.
    #[command(flatten)]
    pub mock: MockFlags,
}

/// What `--engine` accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineChoice {
    /// The model.
    Native,
    /// Canned tokens.
    Mock,
}

/// What computes the tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineKind {
    /// The model.
    Native,
    /// Nothing: canned tokens at configured times.
    Mock(MockConfig),
}

impl EngineKindFlags {
    /// The same in the program's units.
    pub fn resolve(self) -> EngineKind {
        match self.engine_kind {
            EngineChoice::Native => EngineKind::Native,
            EngineChoice::Mock => EngineKind::Mock(self.mock.resolve()),
        }
    }
}

/// What users write about the mock engine.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Mock engine (with --engine mock)")]
pub struct MockFlags {
    /// Time of one step, whatever is in it, in microseconds.
    #[arg(long, env = "TRIPTYCH_MOCK_STEP_US", value_name = "US", default_value_t = 1000)]
    pub mock_step_us: u64,
    /// Time added for each prompt token of a step, in nanoseconds.
    #[arg(long, env = "TRIPTYCH_MOCK_PROMPT_TOKEN_NS", value_name = "NS", default_value_t = 0)]
    pub mock_prompt_token_ns: u64,
    /// Time added for each sequence that decodes in a step, in nanoseconds.
    #[arg(long, env = "TRIPTYCH_MOCK_DECODE_TOKEN_NS", value_name = "NS", default_value_t = 0)]
    pub mock_decode_token_ns: u64,
    /// Time that the tower takes for each patch, in nanoseconds.
    #[arg(long, env = "TRIPTYCH_MOCK_PATCH_NS", value_name = "NS", default_value_t = 0)]
    pub mock_patch_ns: u64,
    /// What every answer says, over and over until `max_tokens`.
    #[arg(
        long,
        env = "TRIPTYCH_MOCK_ANSWER",
        value_name = "TEXT",
        default_value = "This is a mock answer. "
    )]
    pub mock_answer: String,
    /// After so many steps and runs of the tower the pretended device is lost [default: never].
    #[arg(long, env = "TRIPTYCH_MOCK_FAIL_AFTER_STEPS", value_name = "N")]
    pub mock_fail_after_steps: Option<u64>,
}

/// The mock engine's times and words.
///
/// Its KV capacity is the engine key `kv_cache_config.max_tokens`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MockConfig {
    /// Time of one step, whatever is in it.
    pub step: Duration,
    /// Time added for each prompt token of a step.
    pub prompt_token: Duration,
    /// Time added for each sequence that decodes in a step.
    pub decode_token: Duration,
    /// Time that the tower takes for each patch.
    pub patch: Duration,
    /// What every answer says, over and over.
    pub answer: String,
    /// After so many steps and runs of the tower the pretended device is lost.
    pub steps_max: Option<u64>,
}

impl MockFlags {
    /// The same in the program's units.
    pub fn resolve(self) -> MockConfig {
        MockConfig {
            step: Duration::from_micros(self.mock_step_us),
            prompt_token: Duration::from_nanos(self.mock_prompt_token_ns),
            decode_token: Duration::from_nanos(self.mock_decode_token_ns),
            patch: Duration::from_nanos(self.mock_patch_ns),
            answer: self.mock_answer,
            steps_max: self.mock_fail_after_steps,
        }
    }
}
