//! How much processor time another process uses, as Linux counts it.

use std::time::Duration;

/// Linux counts processor time in ticks of this length towards programs, whatever it does itself.
const TICK: Duration = Duration::from_millis(10);

/// Processor time that a process has used so far, its own and the kernel's for it.
///
/// Errors: there is no such process.
pub(crate) fn cpu_time(pid: u32) -> Result<Duration, String> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let ticks = ticks(&text).ok_or_else(|| format!("{path} cannot be understood"))?;
    Ok(TICK * ticks)
}

/// The fields `utime` and `stime`, counted from behind the name, which may hold anything.
fn ticks(stat: &str) -> Option<u32> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut times = fields.split(' ').skip(11).map(|field| field.parse::<u32>().ok());
    Some(times.next()?? + times.next()??)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 9 0 100 1 1";
        assert_eq!(ticks(stat), Some(200));
        assert_eq!(ticks("7 (a) S 1"), None);
        assert_eq!(ticks(""), None);
    }

    #[test]
    fn our_own_time_rises() {
        let before = cpu_time(std::process::id()).unwrap();
        while cpu_time(std::process::id()).unwrap() == before {
            std::hint::spin_loop();
        }
        assert!(cpu_time(u32::MAX).is_err());
    }
}
