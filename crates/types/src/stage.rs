//! The three stages of a request.

/// A stage of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// Tower and projector: media to embedding rows.
    Encode,
    /// The prompt's forward pass and the first token.
    Prefill,
    /// All further tokens.
    Decode,
}

impl Stage {
    /// All stages, in the order of a request.
    pub const ALL: [Self; 3] = [Self::Encode, Self::Prefill, Self::Decode];

    /// The word used in addresses, metrics and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Encode => "encode",
            Self::Prefill => "prefill",
            Self::Decode => "decode",
        }
    }
}

/// A set of stages that one instance offers or one call runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Stages(u8);

impl Stages {
    /// No stage.
    pub const NONE: Self = Self(0);
    /// All three.
    pub const ALL: Self = Self(0b111);

    /// The set of the stages given.
    pub fn of(stages: &[Stage]) -> Self {
        Self(stages.iter().fold(0, |bits, &stage| bits | 1 << stage as u8))
    }

    /// Whether `stage` is in the set.
    pub fn has(self, stage: Stage) -> bool {
        self.0 & (1 << stage as u8) != 0
    }

    /// Whether every stage of `other` is in the set.
    pub fn covers(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The set as bits, encode lowest.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// The inverse of [`Self::bits`]; bits that name no stage are dropped.
    pub fn from_bits(bits: u8) -> Self {
        Self(bits & Self::ALL.0)
    }
}
