//! Time for people: RFC 3339 in UTC, the one form of `CreatedAt` that Docker decodes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds since the epoch, now.
pub fn now() -> u64 {
    seconds(SystemTime::now())
}

/// Seconds since the epoch; what is before it counts as the epoch.
pub fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// `2026-11-20T13:07:43Z`; a time past the year 9999, which RFC 3339 cannot say, counts as the epoch.
pub fn rfc3339(seconds: u64) -> String {
    const LAST: u64 = 253_402_300_799;
    let seconds = if seconds > LAST { 0 } else { seconds };
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
}

/// `40 s`, `3 min`, `2 h 5 min`.
pub fn rough(time: Duration) -> String {
    let minutes = time.as_secs() / 60;
    match minutes {
        0 => format!("{} s", time.as_secs()),
        1..120 => format!("{minutes} min"),
        _ => format!("{} h {} min", minutes / 60, minutes % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_something_took() {
        for (seconds, want) in [(40, "40 s"), (60, "1 min"), (7199, "119 min"), (7500, "2 h 5 min")] {
            assert_eq!(rough(Duration::from_secs(seconds)), want);
        }
    }

    #[test]
    fn a_known_date_and_a_nonsensical_one() {
        assert_eq!(rfc3339(1_795_180_063), "2026-11-20T13:07:43Z");
        assert_eq!(rfc3339(u64::MAX), "1970-01-01T00:00:00Z");
    }
}
