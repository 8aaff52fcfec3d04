//! [`Finding`]: one line of what was looked at, what was seen, and what to do about it.

use std::fmt;

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// Nothing to do.
    Ok,
    /// The process starts, but not as one might wish.
    Warn,
    /// The process would not start, or find nobody to work with.
    Fail,
}

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) level: Level,
    what: &'static str,
    detail: String,
    remedy: String,
}

impl Finding {
    pub(crate) fn ok(what: &'static str, detail: impl Into<String>) -> Self {
        Self { level: Level::Ok, what, detail: detail.into(), remedy: String::new() }
    }

    pub(crate) fn warn(
        what: &'static str,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { level: Level::Warn, what, detail: detail.into(), remedy: remedy.into() }
    }

    pub(crate) fn fail(
        what: &'static str,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { level: Level::Fail, what, detail: detail.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        write!(f, "{level:4}  {:12}  {}", self.what, self.detail)?;
        if !self.remedy.is_empty() {
            write!(f, "  → {}", self.remedy)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line() {
        let check = |finding: Finding, expected| assert_eq!(finding.to_string(), expected);
        check(Finding::ok("etcd", "is there"), "ok    etcd          is there");
        check(Finding::warn("ucx", "none", "a"), "warn  ucx           none  → a");
        check(Finding::fail("http port", "taken", "b"), "FAIL  http port     taken  → b");
    }
}
