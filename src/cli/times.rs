//! Times as people write them.

use crate::clock::Timestamp;
use jiff::civil::{DateTime, Time};
use jiff::{Span, Timestamp as Moment, Zoned, tz::TimeZone};

/// `10 min ago`, `-2h`, `now`, `today`, `yesterday`, `12:00`, `2026-11-21`, `2026-11-21 10:00` (local time) or
/// RFC 3339.
pub fn parse(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let text = text.trim();
    let here = i64::try_from(now.millis()).ok().and_then(|now| Moment::from_millisecond(now).ok());
    let here = here.unwrap_or(Moment::MAX).to_zoned(TimeZone::system());
    let moment = text.parse().ok().or_else(|| Some(local(text, &here)?.timestamp())).ok_or_else(|| {
        format!("{text:?} is no time; write \"10 min ago\", \"2026-11-21 10:00\" or \"2026-11-21T10:00:00Z\"")
    })?;
    // Before 1970 nothing was logged.
    Ok(Timestamp::from_millis(u64::try_from(moment.as_millisecond()).unwrap_or(0)))
}

/// What is said by the clock and calendar of this place.
fn local(text: &str, here: &Zoned) -> Option<Zoned> {
    match text {
        "now" => return Some(here.clone()),
        "today" => return here.start_of_day().ok(),
        "yesterday" => return here.yesterday().and_then(|day| day.start_of_day()).ok(),
        _ => {}
    }
    if let Ok(moment) = text.parse::<DateTime>() {
        return moment.to_zoned(here.time_zone().clone()).ok();
    }
    // Only now: the time of a text with a date is one, too.
    if let Ok(time) = text.parse::<Time>() {
        return here.date().to_datetime(time).to_zoned(here.time_zone().clone()).ok();
    }
    let span: Span = text.strip_suffix("ago").unwrap_or(text).trim().parse().ok()?;
    here.checked_sub(span.abs()).ok()
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
            ("2 hours 5 min ago", 7500),
            ("1 day ago", 86_400),
            ("2026-09-14T11:59:00Z", 60),
        ] {
            assert_eq!(parse(text, now).map(|then| now.since(then).as_secs()), Ok(ago), "{text}");
        }
        for text in ["2026-09-14 10:00", "2026-09-14", "12:00", "today", "yesterday", "1 month ago", "2y"] {
            assert!(parse(text, now).is_ok(), "{text}");
        }
        assert!(parse("yesterday-ish", now).is_err());
        // Wherever this runs, they differ by so much.
        let between = |from: &str, to: &str| {
            parse(to, now).unwrap_or(now).since(parse(from, now).unwrap_or(now)).as_secs()
        };
        assert_eq!(between("2026-01-12 10:00", "2026-01-14 11:30"), 2 * 86_400 + 5400);
        assert_eq!(between("2026-01-12", "2026-01-12 00:30"), 1800);
    }
}
