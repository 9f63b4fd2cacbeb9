//! Durations, sizes and rates as texts, both ways.

use jiff::{Span, SpanRelativeTo};
use std::time::Duration;

/// `"30s"`, `"500ms"`, `"2d"`, `"1h 30min"`. A day is 24 hours.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let span: Span = text.trim().parse().ok()?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
    Duration::try_from(duration).ok()
}

/// In the largest unit that leaves no rest.
pub(super) fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let unit = DURATIONS.iter().find(|(_, unit)| millis > 0 && millis.is_multiple_of(*unit));
    unit.map_or_else(|| "0s".into(), |(word, unit)| format!("{}{word}", millis / unit))
}

const DURATIONS: [(&str, u128); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000), ("ms", 1)];

/// `"25MiB"`, `"1GiB"`, `"4096B"`.
pub(super) fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|character: char| !character.is_ascii_digit())?;
    let (number, word) = text.split_at(digits);
    let (_, unit) = SIZES.iter().find(|(known, _)| *known == word.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*unit)
}

/// In the largest unit that leaves no rest.
pub(super) fn show_size(size: u64) -> String {
    let unit = SIZES.iter().find(|(_, unit)| size > 0 && size.is_multiple_of(*unit));
    unit.map_or_else(|| "0B".into(), |(word, unit)| format!("{}{word}", size / unit))
}

const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// `"600/min"`: how many, in which unit of time.
pub(super) fn rate(text: &str) -> Option<(u64, &str)> {
    let (number, unit) = text.split_once('/')?;
    let number = number.trim().parse().ok().filter(|number| *number > 0)?;
    Some((number, unit.trim())).filter(|(_, unit)| RATES.contains(unit))
}

const RATES: [&str; 5] = ["s", "min", "h", "day", "month"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_go_both_ways() {
        for (text, millis) in [("500ms", 500), ("30s", 30_000), ("30min", 1_800_000), ("2d", 172_800_000)] {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
            assert_eq!(show_duration(Duration::from_millis(millis)), text);
        }
        assert_eq!(duration("1h 30m"), Some(Duration::from_secs(5400)));
        assert_eq!(["", "30", "-5s", "1 month", "soon"].map(duration), [None; 5]);
        assert_eq!(show_duration(Duration::ZERO), "0s");
    }

    #[test]
    fn sizes_go_both_ways() {
        for (text, bytes) in [("25MiB", 25 << 20), ("1GiB", 1 << 30), ("1500B", 1500), ("2KiB", 2048)] {
            assert_eq!((size(text), show_size(bytes).as_str()), (Some(bytes), text));
        }
        assert_eq!(["", "25", "MiB", "25MB", "-1B", "99999999999999GiB"].map(size), [None; 6]);
    }

    #[test]
    fn rates_have_a_number_and_a_unit() {
        assert_eq!(rate("600/min"), Some((600, "min")));
        assert_eq!(["600", "0/s", "1/week", "/min"].map(rate), [None; 4]);
    }
}
