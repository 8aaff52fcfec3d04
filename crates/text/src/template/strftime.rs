//! Dates as Python's `strftime` writes them, in UTC and in English.

const WEEKDAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Letters of a shortened name.
const SHORT: usize = 3;

const DAY_S: u64 = 86_400;

/// A moment, taken apart.
struct Moment {
    year: u64,
    /// From 1.
    month: usize,
    day: u64,
    /// From 1.
    day_of_year: u64,
    /// From Sunday, 0.
    weekday: usize,
    second_of_day: u64,
}

/// Writes the moment `unix_s` seconds after 1970 as `format` says; directives that are not known
/// stay as they are.
pub(super) fn format(format: &str, unix_s: u64) -> String {
    let moment = Moment::new(unix_s);
    let mut out = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        match characters.next() {
            Some('-') => match characters.next() {
                Some(directive) => {
                    let padded = moment.write(directive).unwrap_or_default();
                    let short = padded.trim_start_matches(['0', ' ']);
                    out.push_str(if short.is_empty() { "0" } else { short });
                }
                None => out.push_str("%-"),
            },
            Some(directive) => match moment.write(directive) {
                Some(written) => out.push_str(&written),
                None => out.extend(['%', directive]),
            },
            None => out.push('%'),
        }
    }
    out
}

impl Moment {
    fn new(unix_s: u64) -> Self {
        let n_days = unix_s / DAY_S;
        let (mut year, mut rest) = (1970, n_days);
        while rest >= days_of_year(year) {
            rest -= days_of_year(year);
            year += 1;
        }
        let day_of_year = rest + 1;
        let mut month = 1;
        while rest >= days_of_month(year, month) {
            rest -= days_of_month(year, month);
            month += 1;
        }
        // 1970 began on a Thursday.
        let weekday = ((n_days + 4) % 7) as usize;
        Self { year, month, day: rest + 1, day_of_year, weekday, second_of_day: unix_s % DAY_S }
    }

    fn write(&self, directive: char) -> Option<String> {
        let hour = self.second_of_day / 3600;
        let minute = self.second_of_day / 60 % 60;
        let second = self.second_of_day % 60;
        let hour_of_12 = (hour + 11) % 12 + 1;
        let (weekday, month) = (WEEKDAYS[self.weekday], MONTHS[self.month - 1]);
        Some(match directive {
            'Y' => self.year.to_string(),
            'y' => format!("{:02}", self.year % 100),
            'm' => format!("{:02}", self.month),
            'B' => month.into(),
            'b' | 'h' => month[..SHORT].into(),
            'd' => format!("{:02}", self.day),
            'e' => format!("{:2}", self.day),
            'j' => format!("{:03}", self.day_of_year),
            'A' => weekday.into(),
            'a' => weekday[..SHORT].into(),
            'H' => format!("{hour:02}"),
            'I' => format!("{hour_of_12:02}"),
            'p' => if hour < 12 { "AM" } else { "PM" }.into(),
            'M' => format!("{minute:02}"),
            'S' => format!("{second:02}"),
            'F' => format!("{}-{:02}-{:02}", self.year, self.month, self.day),
            'T' => format!("{hour:02}:{minute:02}:{second:02}"),
            'Z' => "UTC".into(),
            'z' => "+0000".into(),
            '%' => "%".into(),
            _ => return None,
        })
    }
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400)
}

fn days_of_year(year: u64) -> u64 {
    if is_leap(year) { 366 } else { 365 }
}

fn days_of_month(year: u64, month: usize) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::format;

    #[test]
    fn dates_are_written_as_in_python() {
        let check = |unix_s: u64, directives: &str, expected: &str| {
            assert_eq!(format(directives, unix_s), expected);
        };
        check(0, "%d %b %Y", "01 Jan 1970");
        check(951_782_400, "%d %b %Y", "29 Feb 2000");
        check(4_102_444_799, "%F %T %Z", "2099-12-31 23:59:59 UTC");
        check(1_709_164_799, "%Y-%m-%d %H:%M:%S", "2024-02-28 23:59:59");
        check(0, "%A, %B %-d, %Y", "Thursday, January 1, 1970");
        check(1_732_153_445, "%a %e %j %I %p %y %% %q x%", "Thu 21 326 01 AM 24 % %q x%");
        check(1_709_164_799, "%a %e %j %I %p %y", "Wed 28 059 11 PM 24");
        check(0, "%a %e %-H %I %-S%-", "Thu  1 0 12 0%-");
    }
}
