//! Times as people write them.

use crate::clock::Timestamp;
use jiff::civil::DateTime;
use jiff::{Span, SpanRelativeTo, tz::TimeZone};
use std::time::Duration;

/// `10 min ago`, `2h`, `2026-11-21`, `2026-11-21 10:00` (local time) or RFC 3339.
pub fn parse(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let text = text.trim();
    let millis = |moment: jiff::Timestamp| u64::try_from(moment.as_millisecond()).unwrap_or(0);
    if let Ok(moment) = text.parse::<jiff::Timestamp>() {
        return Ok(Timestamp::from_millis(millis(moment)));
    }
    if let Ok(moment) = text.parse::<DateTime>()
        && let Ok(moment) = moment.to_zoned(TimeZone::system())
    {
        return Ok(Timestamp::from_millis(millis(moment.timestamp())));
    }
    let span: Option<Span> = text.strip_suffix("ago").unwrap_or(text).trim().parse().ok();
    let duration = span.and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()).ok());
    let duration = duration.and_then(|duration| Duration::try_from(duration.abs()).ok());
    let ago = duration.ok_or_else(|| {
        format!("{text:?} is no time; write \"10 min ago\", \"2026-11-21 10:00\" or \"2026-11-21T10:00:00Z\"")
    })?;
    let ago = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
    Ok(Timestamp::from_millis(now.millis().saturating_sub(ago)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_write_times_in_many_ways() {
        let now = Timestamp::from_seconds(1_789_387_200);
        for (text, ago) in
            [("10 min ago", 600), ("2h", 7200), ("1 day ago", 86_400), ("2026-09-14T11:59:00Z", 60)]
        {
            assert_eq!(parse(text, now).map(|then| now.since(then).as_secs()), Ok(ago), "{text}");
        }
        assert!(parse("2026-09-14 10:00", now).is_ok() && parse("2026-09-14", now).is_ok());
        assert!(parse("yesterday-ish", now).is_err());
    }
}
