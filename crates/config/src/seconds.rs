//! Times that flags give in seconds.

use std::time::Duration;
use types::{Error, Result};

/// A time. Errors: none at all, or more than `most` seconds.
pub(crate) fn seconds(flag: &str, given: u64, most: u64) -> Result<Duration> {
    if !(1..=most).contains(&given) {
        return Err(Error::invalid(format!(
            "{flag}: {given} is not accepted; expected an integer from 1 to {most}"
        )));
    }
    Ok(Duration::from_secs(given))
}
