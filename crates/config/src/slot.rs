//! A place in the configuration that one engine key writes: its type, its bounds, and its words.
//!
//! The same slot checks a value, stores it, says what it accepts and shows its default.

use serde_json::Value;
use std::ops::RangeInclusive;

/// Most entries of a list.
const COUNTS_MAX: usize = 256;

/// Borrowed access to one value of [`crate::EngineArgs`].
pub(crate) enum Slot<'a> {
    Count(&'a mut usize, RangeInclusive<usize>),
    /// Absent means what the words say.
    OptionalCount(&'a mut Option<usize>, RangeInclusive<usize>, &'static str),
    /// A list, kept ascending and without doubles. Absent means what the words say.
    OptionalCounts(&'a mut Option<Vec<usize>>, RangeInclusive<usize>, &'static str),
    /// Zero is excluded, one is included.
    Fraction(&'a mut f64),
    Switch(&'a mut bool),
    Word(&'a mut dyn Word),
    /// A key of other systems of which this build can honour one value only.
    Only(Value, &'static str),
    /// A count of other systems that changes nothing here, and what it amounts to.
    Moot(RangeInclusive<usize>, &'static str),
}

/// A closed choice among words.
pub(crate) trait Word {
    fn words(&self) -> &'static [&'static str];
    fn current(&self) -> &'static str;
    fn choose(&mut self, word: &str) -> bool;
}

impl Slot<'_> {
    /// Stores `value`; `None` if it is of another type or out of bounds.
    pub(crate) fn store(&mut self, value: &Value) -> Option<()> {
        match self {
            Self::Count(target, bounds) => **target = count_within(value, bounds)?,
            Self::OptionalCount(target, bounds, _) => {
                **target = Some(count_within(value, bounds)?);
            }
            Self::OptionalCounts(target, bounds, _) => {
                **target = Some(counts_within(value, bounds)?);
            }
            Self::Fraction(target) => {
                **target = value.as_f64().filter(|number| *number > 0.0 && *number <= 1.0)?;
            }
            Self::Switch(target) => **target = value.as_bool()?,
            Self::Word(target) => return target.choose(value.as_str()?).then_some(()),
            Self::Only(only, _) => return same(only, value).then_some(()),
            Self::Moot(bounds, _) => {
                count_within(value, bounds)?;
            }
        }
        Some(())
    }

    /// What the key accepts, as the end of a sentence.
    pub(crate) fn accepts(&self) -> String {
        match self {
            Self::Count(_, bounds) | Self::OptionalCount(_, bounds, _) | Self::Moot(bounds, _) => {
                format!("an integer from {} to {}", bounds.start(), bounds.end())
            }
            Self::OptionalCounts(_, bounds, _) => {
                let (start, end) = (bounds.start(), bounds.end());
                format!("a list of 1 to {COUNTS_MAX} integers from {start} to {end}")
            }
            Self::Fraction(_) => "a number above 0 and at most 1".to_owned(),
            Self::Switch(_) => "true or false".to_owned(),
            Self::Word(target) => format!("one of {}", target.words().join(", ")),
            Self::Only(only, why) => format!("{only} only: {why}"),
        }
    }

    /// The present value as a user would write it.
    pub(crate) fn show(&self) -> String {
        match self {
            Self::Count(target, _) => target.to_string(),
            Self::OptionalCount(target, _, absent) => {
                target.map_or((*absent).to_owned(), |count| count.to_string())
            }
            Self::OptionalCounts(target, _, absent) => {
                let shown = |counts: &Vec<usize>| Value::from(counts.clone()).to_string();
                target.as_ref().map_or((*absent).to_owned(), shown)
            }
            Self::Fraction(target) => target.to_string(),
            Self::Switch(target) => target.to_string(),
            Self::Word(target) => target.current().to_owned(),
            Self::Only(only, _) => only.to_string().trim_matches('"').to_owned(),
            Self::Moot(_, meaning) => (*meaning).to_owned(),
        }
    }
}

fn count_within(value: &Value, bounds: &RangeInclusive<usize>) -> Option<usize> {
    let count = usize::try_from(value.as_u64()?).ok()?;
    bounds.contains(&count).then_some(count)
}

fn counts_within(value: &Value, bounds: &RangeInclusive<usize>) -> Option<Vec<usize>> {
    let list = value.as_array().filter(|list| (1..=COUNTS_MAX).contains(&list.len()))?;
    let counts: Option<Vec<usize>> = list.iter().map(|one| count_within(one, bounds)).collect();
    let mut counts = counts?;
    counts.sort_unstable();
    counts.dedup();
    Some(counts)
}

/// Equality that does not tell `0` from `0.0`.
fn same(only: &Value, value: &Value) -> bool {
    only == value || only.as_f64().is_some_and(|number| value.as_f64() == Some(number))
}
