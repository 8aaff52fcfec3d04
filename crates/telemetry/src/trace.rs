//! One trace id through all roles: the W3C `traceparent` header, parsed and made.

use std::fmt;

/// Position in a trace: `00-<trace id>-<parent id>-<flags>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// The whole request's id; never zero.
    pub trace_id: u128,
    /// The caller's span; never zero.
    pub parent_id: u64,
    /// Whether the caller records this trace.
    pub sampled: bool,
}

impl TraceParent {
    /// Reads a header; `None` if it is not one, which callers treat as absent.
    pub fn parse(header: &str) -> Option<Self> {
        let mut fields = header.trim().split('-');
        let version = hex(fields.next()?, 2)?;
        let trace_id = hex(fields.next()?, 32)?;
        let parent_id = hex(fields.next()?, 16)? as u64;
        let flags = hex(fields.next()?, 2)?;
        // Version ff is forbidden, and version 00 has exactly four fields.
        let whole = version != 0xff && (version != 0 || fields.next().is_none());
        let valid = whole && trace_id != 0 && parent_id != 0;
        valid.then_some(Self { trace_id, parent_id, sampled: flags & 1 == 1 })
    }

    /// The start of a trace; `id` is random.
    pub fn start(id: u128) -> Self {
        let (high, low) = ((id >> 64) as u64, id as u64);
        Self { trace_id: id.max(1), parent_id: (high ^ low).max(1), sampled: false }
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "00-{:032x}-{:016x}-{:02x}",
            self.trace_id,
            self.parent_id,
            u8::from(self.sampled)
        )
    }
}

/// Exactly `len` lower-case hexadecimal digits.
fn hex(digits: &str, len: usize) -> Option<u128> {
    let allowed = |digit: u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit);
    let valid = digits.len() == len && digits.bytes().all(allowed);
    valid.then(|| u128::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::TraceParent;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn check(header: &str, valid: bool) {
        assert_eq!(TraceParent::parse(header).is_some(), valid, "{header}");
    }

    #[test]
    fn headers() {
        check(&format!("00-{TRACE}-00f067aa0ba902b7-01"), true);
        check(&format!("01-{TRACE}-00f067aa0ba902b7-01-more"), true);
        check(&format!("00-{TRACE}-00f067aa0ba902b7-01-more"), false);
        check(&format!("ff-{TRACE}-00f067aa0ba902b7-01"), false);
        check(&format!("00-{TRACE}-0000000000000000-01"), false);
        check(&format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)), false);
        check(&format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase()), false);
        check(&format!("00-{TRACE}-00f067aa0ba902b7"), false);
        check(&format!("00-{TRACE}-+0f067aa0ba902b7-01"), false);
        check("", false);
    }

    #[test]
    fn what_is_written_is_read_back() {
        for random in [0, 7, u128::MAX, 7 << 64] {
            let made = TraceParent::start(random);
            assert_eq!(TraceParent::parse(&made.to_string()), Some(made));
        }
    }
}
