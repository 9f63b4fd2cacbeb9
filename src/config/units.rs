//! Parses and formats durations, sizes, rates, quotas and networks.

use ipnet::IpNet;
use jiff::{Span, SpanRelativeTo};
use mailtrail_mail::Rate;
use mailtrail_net::transport::{QuotaLimit, QuotaPeriod};
use std::net::IpAddr;
use std::time::Duration;

pub(crate) const ONE_MINUTE: Duration = Duration::from_secs(60);
pub(crate) const ONE_DAY: Duration = Duration::from_secs(86_400);

/// Parses `"30s"`, `"500ms"`, `"2d"`, `"1h 30min"`. A day has 24 hours.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let span: Span = text.trim().parse().ok()?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
    Duration::try_from(duration).ok()
}

/// Formats a duration in the largest unit without a remainder.
pub(crate) fn format_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let unit = DURATION_UNITS.iter().find(|(_, unit)| millis > 0 && millis.is_multiple_of(*unit));
    unit.map_or_else(|| "0s".into(), |(word, unit)| format!("{}{word}", millis / unit))
}

const DURATION_UNITS: [(&str, u128); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000), ("ms", 1)];

/// Parses a size such as `"25MiB"`, `"1GiB"` or `"4096B"`.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|character: char| !character.is_ascii_digit())?;
    let (number, word) = text.split_at(digits);
    let (_, unit) = SIZE_UNITS.iter().find(|(known, _)| *known == word.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*unit)
}

/// Formats a size in the largest unit without a remainder.
pub(crate) fn format_size(size: u64) -> String {
    let unit = SIZE_UNITS.iter().find(|(_, unit)| size > 0 && size.is_multiple_of(*unit));
    unit.map_or_else(|| "0B".into(), |(word, unit)| format!("{}{word}", size / unit))
}

const SIZE_UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Parses `"600/min"`: number per unit of time. A month has 30 days.
pub(crate) fn parse_rate(text: &str) -> Option<Rate> {
    let (number, word) = text.split_once('/')?;
    let count = number.trim().parse().ok().filter(|number| *number > 0)?;
    let (_, seconds) = RATE_UNITS.iter().find(|(known, _)| *known == word.trim())?;
    Some(Rate { count, per: Duration::from_secs(*seconds) })
}

/// Formats a rate, the inverse of [`parse_rate`].
pub(crate) fn format_rate(rate: Rate) -> String {
    let unit = RATE_UNITS.iter().find(|(_, seconds)| rate.per.as_secs() == *seconds);
    unit.map_or_else(String::new, |(word, _)| format!("{}/{word}", rate.count))
}

/// Parses `"50000/month"`: recipients per day or calendar month, the plan of an upstream.
pub(crate) fn parse_upstream_quota(text: &str) -> Option<QuotaLimit> {
    parse_user_quota(text).filter(|plan| plan.period != QuotaPeriod::Hour)
}

/// Parses the quota of a client: recipients per hour, day or calendar month.
pub(crate) fn parse_user_quota(text: &str) -> Option<QuotaLimit> {
    let (number, word) = text.split_once('/')?;
    let recipients = number.trim().parse().ok().filter(|number| *number > 0)?;
    let (_, period) = QUOTA_PERIODS.iter().find(|(known, _)| *known == word.trim())?;
    Some(QuotaLimit { recipients, period: *period })
}

/// Formats a quota, the inverse of [`parse_upstream_quota`] and [`parse_user_quota`].
pub(crate) fn format_quota(plan: QuotaLimit) -> String {
    let word = QUOTA_PERIODS.iter().find(|(_, period)| *period == plan.period).map_or("", |(word, _)| word);
    format!("{}/{word}", plan.recipients)
}

/// Parses `"0.1%"` as a fraction of one.
pub(crate) fn parse_percentage(text: &str) -> Option<f64> {
    let number: f64 = text.trim().strip_suffix('%')?.trim().parse().ok()?;
    (0.0..=100.0).contains(&number).then_some(number / 100.0)
}

/// Formats a percentage, the inverse of [`parse_percentage`].
pub(crate) fn format_percentage(part: f64) -> String {
    format!("{}%", (part * 1e8).round() / 1e6)
}

/// Description of a percentage in faults.
pub(crate) const EXPECTED_PERCENTAGE: &str = "a percentage from \"0%\" to \"100%\"";

/// Description of an upstream's quota in faults.
pub(crate) const EXPECTED_UPSTREAM_QUOTA: &str = "a quota such as \"50000/month\" (day, month)";

/// Description of a client's quota in faults.
pub(crate) const EXPECTED_USER_QUOTA: &str = "a quota such as \"10000/day\" (hour, day, month)";

const QUOTA_PERIODS: [(&str, QuotaPeriod); 3] =
    [("hour", QuotaPeriod::Hour), ("day", QuotaPeriod::Day), ("month", QuotaPeriod::Month)];

/// Description of a rate in faults.
pub(crate) const EXPECTED_RATE: &str = "a rate such as \"600/min\" (s, min, h, day, month)";

const RATE_UNITS: [(&str, u64); 5] =
    [("s", 1), ("min", 60), ("h", 3600), ("day", 86_400), ("month", 30 * 86_400)];

/// Parses a network or a single address.
pub(crate) fn parse_network(text: &str) -> Option<IpNet> {
    let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
    text.parse::<IpNet>().ok().or_else(address).map(|network| network.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_durations() {
        for (text, millis) in [("500ms", 500), ("30s", 30_000), ("30min", 1_800_000), ("2d", 172_800_000)] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
            assert_eq!(format_duration(Duration::from_millis(millis)), text);
        }
        assert_eq!(parse_duration("1h 30m"), Some(Duration::from_secs(5400)));
        assert_eq!(["", "30", "-5s", "1 month", "soon"].map(parse_duration), [None; 5]);
        assert_eq!(format_duration(Duration::ZERO), "0s");
    }

    #[test]
    fn round_trips_sizes() {
        for (text, bytes) in [("25MiB", 25 << 20), ("1GiB", 1 << 30), ("1500B", 1500), ("2KiB", 2048)] {
            assert_eq!((parse_size(text), format_size(bytes).as_str()), (Some(bytes), text));
        }
        assert_eq!(["", "25", "MiB", "25MB", "-1B", "99999999999999GiB"].map(parse_size), [None; 6]);
    }

    #[test]
    fn round_trips_percentages() {
        for (text, part) in [("5%", 0.05), ("0.1%", 0.001), ("100%", 1.0), ("0%", 0.0), ("99.95%", 0.9995)] {
            assert_eq!((parse_percentage(text), format_percentage(part).as_str()), (Some(part), text));
        }
        assert_eq!(["", "5", "%", "-1%", "101%", "NaN%"].map(parse_percentage), [None; 6]);
    }

    #[test]
    fn round_trips_rates_and_quotas() {
        for (text, seconds) in
            [("600/min", 60), ("1/s", 1), ("5/h", 3600), ("7/day", 86_400), ("8/month", 2_592_000)]
        {
            let read = parse_rate(text).unwrap();
            assert_eq!((read.per.as_secs(), format_rate(read).as_str()), (seconds, text));
        }
        assert_eq!(["600", "0/s", "1/week", "/min"].map(parse_rate), [None; 4]);
        assert_eq!(parse_upstream_quota("50000/month").map(format_quota).as_deref(), Some("50000/month"));
        assert_eq!(["50000/h", "0/day", "x/day", "1/hour"].map(parse_upstream_quota), [None; 4]);
        assert_eq!(parse_user_quota("100/hour").map(format_quota).as_deref(), Some("100/hour"));
        assert_eq!(["100/h", "0/hour"].map(parse_user_quota), [None; 2]);
    }
}
