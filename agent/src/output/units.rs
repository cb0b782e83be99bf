//! Times, durations and sizes as people read them.

/// `2026-11-22T18:36:00.123456789Z` for nanoseconds since the epoch (RFC 3339, UTC).
#[must_use]
pub fn rfc3339(unix_ns: u64, decimals: usize) -> String {
    let seconds = unix_ns / 1_000_000_000;
    let (year, month, day) = civil_date(seconds / 86_400);
    format!("{year:04}-{month:02}-{day:02}T{}Z", time_of_day(unix_ns, decimals))
}

/// `18:36:00.123` (UTC).
#[must_use]
pub fn time_of_day(unix_ns: u64, decimals: usize) -> String {
    let (seconds, ns) = (unix_ns / 1_000_000_000 % 86_400, unix_ns % 1_000_000_000);
    let mut text = format!("{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60);
    if decimals > 0 {
        text.push('.');
        text.push_str(&format!("{ns:09}")[..decimals.min(9)]);
    }
    text
}

/// Year, month and day of a day since 1970-01-01, in the Gregorian calendar.
fn civil_date(days: u64) -> (u64, u64, u64) {
    // Counted in years that begin in March, so that the leap day is the last one.
    let from_year_zero = days + 719_468;
    let (era, day_of_era) = (from_year_zero / 146_097, from_year_zero % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

/// A duration with three significant digits: `950ns`, `12.3ms`, `5s`, `2m05s`, `3h07m`.
#[must_use]
pub fn duration(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns}ns"),
        1_000..1_000_000 => scaled(ns, 1_000, "µs"),
        1_000_000..1_000_000_000 => scaled(ns, 1_000_000, "ms"),
        1_000_000_000..60_000_000_000 => scaled(ns, 1_000_000_000, "s"),
        60_000_000_000..3_600_000_000_000 => {
            let seconds = ns / 1_000_000_000;
            format!("{}m{:02}s", seconds / 60, seconds % 60)
        }
        _ => {
            let minutes = ns / 60_000_000_000;
            format!("{}h{:02}m", minutes / 60, minutes % 60)
        }
    }
}

/// A size: `512B`, `1.46KiB`, `3MiB`.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    match bytes {
        0..1_024 => format!("{bytes}B"),
        1_024..1_048_576 => scaled(bytes, 1_024, "KiB"),
        1_048_576..1_073_741_824 => scaled(bytes, 1_048_576, "MiB"),
        _ => scaled(bytes, 1_073_741_824, "GiB"),
    }
}

/// Three significant digits, without zeros at the end, and never rounded up to the next unit.
fn scaled(value: u64, unit: u64, name: &str) -> String {
    let whole = value / unit;
    let hundredths = u64::try_from(u128::from(value % unit) * 100 / u128::from(unit)).unwrap_or(0);
    match whole {
        0..10 if hundredths.is_multiple_of(10) && hundredths > 0 => {
            format!("{whole}.{}{name}", hundredths / 10)
        }
        0..10 if hundredths > 0 => format!("{whole}.{hundredths:02}{name}"),
        10..100 if hundredths >= 10 => format!("{whole}.{}{name}", hundredths / 10),
        _ => format!("{whole}{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_gregorian_calendar() {
        assert_eq!(rfc3339(0, 0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400_000_000_000, 3), "2000-02-29T00:00:00.000Z");
        assert_eq!(rfc3339(1_709_251_199_999_999_999, 6), "2024-02-29T23:59:59.999999Z");
        assert_eq!(rfc3339(1_795_340_250_137_301_000, 9), "2026-11-22T09:37:30.137301000Z");
        assert_eq!(rfc3339(4_107_542_400_000_000_000, 0), "2100-03-01T00:00:00Z");
    }

    #[test]
    fn durations_have_three_digits_and_the_unit_that_fits() {
        let shown: Vec<String> = [0, 950, 1_500, 12_345_678, 999_999_999, 5_000_000_000, 125_000_000_000]
            .into_iter()
            .map(duration)
            .collect();
        assert_eq!(shown, ["0ns", "950ns", "1.5µs", "12.3ms", "999ms", "5s", "2m05s"]);
        assert_eq!(duration(11_220_000_000_000), "3h07m");
    }

    #[test]
    fn sizes_are_binary() {
        assert_eq!([0, 1_023, 1_500, 3 << 20].map(bytes), ["0B", "1023B", "1.46KiB", "3MiB"]);
    }
}
