//! Times as the wire shows them, and the clock as the core sees it.
//!
//! Owns the one text form of a time: RFC 3339, UTC, milliseconds. Knows nothing of time zones or leap seconds.

use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A moment in milliseconds since 1970, shown as `2026-03-23T00:00:00.000Z`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The moment that lies `millis` after 1970-01-01T00:00:00Z.
    pub const fn from_millis(millis: u64) -> Timestamp {
        Timestamp(millis)
    }

    /// Milliseconds since 1970.
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// What the system clock says; a clock before 1970 reads as 1970.
    pub fn now() -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(since.as_millis().try_into().unwrap_or(u64::MAX))
    }

    /// Reads exactly the form that `Display` writes.
    pub fn parse(text: &str) -> Option<Timestamp> {
        let b = text.as_bytes();
        if b.len() != 24 || !text.is_ascii() {
            return None;
        }
        if (b[4], b[7], b[10], b[13], b[16], b[19], b[23]) != (b'-', b'-', b'T', b':', b':', b'.', b'Z') {
            return None;
        }
        let field = |from: usize, to: usize| {
            b[from..to].iter().all(u8::is_ascii_digit).then(|| text[from..to].parse::<u64>().ok()).flatten()
        };
        let (year, month, day) = (field(0, 4)?, field(5, 7)?, field(8, 10)?);
        let (hour, minute, second, milli) = (field(11, 13)?, field(14, 16)?, field(17, 19)?, field(20, 23)?);
        if year < 1970 || !(1..=12).contains(&month) || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let days = days_of(year, month, day);
        if civil(days) != (year, month, day) {
            return None; // 31 February and its like
        }
        Some(Timestamp((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000 + milli))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, milli) = (self.0 / 1000, self.0 % 1000);
        let (year, month, day) = civil(seconds / 86_400);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        let text = String::deserialize(deserializer)?;
        Timestamp::parse(&text).ok_or_else(|| serde::de::Error::custom(format!("`{text}` is no time")))
    }
}

/// Both clocks at one instant: `mono` for deadlines, `wall` for records. Plain numbers, so that a simulation can make one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Since the start of the process; never goes back.
    pub mono: Duration,
    /// What the calendar says; may jump.
    pub wall: Timestamp,
}

/// Reads both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// A clock whose `mono` starts at zero now.
    pub fn start() -> Clock {
        Clock(Instant::now())
    }

    /// Both clocks now.
    pub fn now(&self) -> Now {
        Now { mono: self.0.elapsed(), wall: Timestamp::now() }
    }

    /// The `Instant` at which `mono` will read `at`.
    pub fn instant(&self, at: Duration) -> Instant {
        self.0 + at
    }
}

// Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", for days since 1970-01-01 and years from 1970 on.
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + u64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

fn days_of(year: u64, month: u64, day: u64) -> u64 {
    let year = year - u64::from(month <= 2);
    let (era, yoe) = (year / 400, year % 400);
    let mp = if month > 2 { month - 3 } else { month + 9 };
    let doy = (153 * mp + 2) / 5 + day.max(1) - 1;
    era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_and_print_the_same() {
        for text in ["1970-01-01T00:00:00.000Z", "2026-03-23T14:05:08.123Z", "2000-02-29T23:59:59.999Z"] {
            assert_eq!(Timestamp::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Timestamp::from_millis(1_774_274_708_123).to_string(), "2026-03-23T14:05:08.123Z");
    }

    #[test]
    fn what_is_no_time_is_refused() {
        let bad = [
            "",
            "2026-03-23",
            "2026-02-30T00:00:00.000Z",
            "2026-13-01T00:00:00.000Z",
            "2026-03-23T24:00:00.000Z",
        ];
        for text in bad {
            assert_eq!(Timestamp::parse(text), None, "{text}");
        }
    }
}
