//! The table of an evaluation: asked, right and failed, per kind of question.

use super::Outcome;
use super::questions::Kind;
use std::fmt;

/// Counts of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Questions asked.
    pub n: usize,
    /// Right answers.
    pub n_right: usize,
    /// Requests that failed; they are not right.
    pub n_failed: usize,
}

/// Counts of all kinds, in the order of [`Kind::ALL`].
#[derive(Debug, Clone, Default)]
pub struct Table {
    counts: [Counts; Kind::ALL.len()],
    first_failure: Option<String>,
}

/// How many percent must be right.
#[derive(Debug, Clone, Copy)]
pub struct Requirement {
    /// Of every kind but numbers.
    pub percent: f64,
    /// Of numbers.
    pub number: f64,
}

impl Counts {
    /// Share of right answers in percent; of nothing, all are right.
    pub fn percent(self) -> f64 {
        if self.n == 0 { 100.0 } else { 100.0 * self.n_right as f64 / self.n as f64 }
    }
}

impl Table {
    /// Counts one more outcome.
    pub fn count(&mut self, outcome: &Outcome) {
        let counts = &mut self.counts[outcome.question.kind as usize];
        counts.n += 1;
        counts.n_right += usize::from(outcome.is_right());
        if let Err(error) = &outcome.answer {
            counts.n_failed += 1;
            self.first_failure.get_or_insert_with(|| error.clone());
        }
    }

    /// The counts of one kind.
    pub fn of(&self, kind: Kind) -> Counts {
        self.counts[kind as usize]
    }

    /// The kinds with too few right, as they are shown.
    pub fn short_of(&self, requirement: Requirement) -> Vec<String> {
        let short = Kind::ALL.into_iter().filter_map(|kind| {
            let (percent, required) = (self.of(kind).percent(), requirement.of(kind));
            (percent < required).then(|| format!("{} {percent:.1} % < {required} %", kind.name()))
        });
        short.collect()
    }
}

impl Requirement {
    fn of(self, kind: Kind) -> f64 {
        if kind == Kind::Number { self.number } else { self.percent }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<10} {:>6} {:>6} {:>7}", "kind", "n", "right", "%")?;
        for kind in Kind::ALL {
            let counts = self.of(kind);
            let Counts { n, n_right, .. } = counts;
            write!(f, "{:<10} {n:>6} {n_right:>6} {:>7.1}", kind.name(), counts.percent())?;
            match counts.n_failed {
                0 => writeln!(f)?,
                n_failed => writeln!(f, "   {n_failed} requests failed")?,
            }
        }
        match &self.first_failure {
            Some(failure) => writeln!(f, "first failure: {failure}"),
            None => Ok(()),
        }
    }
}
