//! Times as people write them.

use crate::clock::Timestamp;
use jiff::civil::{DateTime, Time};
use jiff::{Span, SpanRelativeTo, tz::TimeZone};
use std::time::Duration;

/// `10 min ago`, `-2h`, `now`, `today`, `yesterday`, `12:00`, `2026-11-21`, `2026-11-21 10:00` (local time) or
/// RFC 3339.
pub fn parse(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let text = text.trim();
    let millis = |moment: jiff::Timestamp| u64::try_from(moment.as_millisecond()).unwrap_or(0);
    if let Ok(moment) = text.parse::<jiff::Timestamp>() {
        return Ok(Timestamp::from_millis(millis(moment)));
    }
    let here =
        jiff::Timestamp::from_millisecond(now.millis() as i64).map(|now| now.to_zoned(TimeZone::system()));
    if let Ok(here) = here {
        let time = || {
            text.parse::<Time>().and_then(|time| here.date().to_datetime(time).to_zoned(TimeZone::system()))
        };
        let named = match text {
            "now" => Some(here.clone()),
            "today" => here.start_of_day().ok(),
            "yesterday" => here.yesterday().and_then(|day| day.start_of_day()).ok(),
            _ => time().ok(),
        };
        if let Some(moment) = named {
            return Ok(Timestamp::from_millis(millis(moment.timestamp())));
        }
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
        for (text, ago) in [
            ("10 min ago", 600),
            ("2h", 7200),
            ("-1h", 3600),
            ("now", 0),
            ("1 day ago", 86_400),
            ("2026-09-14T11:59:00Z", 60),
        ] {
            assert_eq!(parse(text, now).map(|then| now.since(then).as_secs()), Ok(ago), "{text}");
        }
        for text in ["2026-09-14 10:00", "2026-09-14", "12:00", "today", "yesterday"] {
            assert!(parse(text, now).is_ok(), "{text}");
        }
        assert!(parse("yesterday-ish", now).is_err());
    }
}
