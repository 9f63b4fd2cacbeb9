//! Parses and formats times in the local time zone (`TZ` or `/etc/localtime`).

use jiff::civil::{DateTime, Time};
use jiff::{Span, Timestamp as Moment, Zoned, tz::TimeZone};
use mailtrail_mail::Timestamp;
use std::io::IsTerminal;
use std::sync::LazyLock;

/// Parses `10 min ago`, `-2h`, `+3 days`, `now`, `today`, `yesterday`, `tomorrow`, `12:00`, `2026-11-21`, `2026-11-21
/// 10:00` (local time), or a time with an offset or a zone as in RFC 3339 and RFC 9557. When clocks are set back, the
/// first of two equal times is used; when they are set forward, a skipped time moves by the difference.
pub fn parse(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    parse_in_zone(text, now, TimeZone::system())
}

fn parse_in_zone(text: &str, now: Timestamp, zone: TimeZone) -> Result<Timestamp, String> {
    let text = text.trim();
    let here = i64::try_from(now.as_millis()).ok().and_then(|now| Moment::from_millisecond(now).ok());
    let here = here.unwrap_or(Moment::MAX).to_zoned(zone);
    let moment =
        text.parse().ok().or_else(|| Some(resolve_local(text, &here)?.timestamp())).ok_or_else(|| {
            format!(
                "{text:?} is no time; write \"10 min ago\", \"2026-11-21 10:00\" or \"2026-11-21T10:00:00Z\""
            )
        })?;
    // Times before 1970 are before every log entry.
    Ok(Timestamp::from_millis(u64::try_from(moment.as_millisecond()).unwrap_or(0)))
}

/// Parses an expression in the local calendar.
fn resolve_local(text: &str, here: &Zoned) -> Option<Zoned> {
    match text {
        "now" => return Some(here.clone()),
        "today" => return here.start_of_day().ok(),
        "yesterday" => return here.yesterday().and_then(|day| day.start_of_day()).ok(),
        "tomorrow" => return here.tomorrow().and_then(|day| day.start_of_day()).ok(),
        _ => {}
    }
    if let Ok(elsewhere) = text.parse::<Zoned>() {
        return Some(elsewhere);
    }
    if let Ok(moment) = text.parse::<DateTime>() {
        // A day does not start at midnight everywhere.
        let moment = moment.to_zoned(here.time_zone().clone()).ok()?;
        return if text.contains(':') { Some(moment) } else { moment.start_of_day().ok() };
    }
    // Parsed last: the time of a text with a date would match, too.
    if let Ok(time) = text.parse::<Time>() {
        return here.date().to_datetime(time).to_zoned(here.time_zone().clone()).ok();
    }
    if let Some(ahead) = text.strip_prefix('+') {
        return here.checked_add(ahead.trim().parse::<Span>().ok()?).ok();
    }
    let span: Span = text.strip_suffix("ago").unwrap_or(text).trim().parse().ok()?;
    here.checked_sub(span.abs()).ok()
}

/// Formats an RFC 3339 time in UTC for the user. On a terminal: local time with its offset from UTC. Otherwise, and if
/// it is no time, unchanged.
pub fn format_local(moment: &str) -> String {
    static LOCAL_ZONE: LazyLock<Option<TimeZone>> =
        LazyLock::new(|| std::io::stdout().is_terminal().then(TimeZone::system));
    LOCAL_ZONE.as_ref().and_then(|zone| format_in_zone(moment, zone)).unwrap_or_else(|| moment.to_owned())
}

fn format_in_zone(moment: &str, zone: &TimeZone) -> Option<String> {
    let local = moment.parse::<Moment>().ok()?.to_zoned(zone.clone());
    let form = if local.offset().is_zero() { "%Y-%m-%dT%H:%M:%S%.3fZ" } else { "%Y-%m-%dT%H:%M:%S%.3f%:z" };
    Some(local.strftime(form).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_relative_and_absolute_times() {
        let now = Timestamp::from_secs(1_789_387_200);
        for (text, ago) in [
            ("10 min ago", 600),
            ("2h", 7200),
            ("-1h", 3600),
            ("now", 0),
            ("2 hours 5 min ago", 7500),
            ("1 day ago", 86_400),
            ("2026-09-14T11:59:00Z", 60),
        ] {
            assert_eq!(parse(text, now).map(|then| now.duration_since(then).as_secs()), Ok(ago), "{text}");
        }
        for text in ["2026-09-14 10:00", "2026-09-14", "12:00", "today", "yesterday", "1 month ago", "2y"] {
            assert!(parse(text, now).is_ok(), "{text}");
        }
        assert!(parse("yesterday-ish", now).is_err());
        // The difference is the same in every time zone.
        let between = |from: &str, to: &str| {
            parse(to, now).unwrap_or(now).duration_since(parse(from, now).unwrap_or(now)).as_secs()
        };
        assert_eq!(between("2026-01-12 10:00", "2026-01-14 11:30"), 2 * 86_400 + 5400);
        assert_eq!(between("2026-01-12", "2026-01-12 00:30"), 1800);
    }

    /// Resolves `text` at the local time `now` in `zone`, in UTC.
    fn parse_to_utc(zone: &str, now: &str, text: &str) -> String {
        let zone = TimeZone::posix(zone).or_else(|_| TimeZone::get(zone)).unwrap();
        let now =
            now.parse::<DateTime>().unwrap().to_zoned(zone.clone()).unwrap().timestamp().as_millisecond();
        let then = parse_in_zone(text, Timestamp::from_millis(now.try_into().unwrap()), zone).unwrap();
        then.to_string().strip_suffix(".000Z").unwrap().to_owned()
    }

    #[test]
    fn parses_times_in_local_zone() {
        for (zone, now, text, expected) in [
            ("Europe/Berlin", "2026-07-01T00:30", "today", "2026-06-30T22:00:00"),
            ("Europe/Berlin", "2026-07-01T00:30", "yesterday", "2026-06-29T22:00:00"),
            ("Europe/Berlin", "2026-07-01T00:30", "tomorrow", "2026-07-01T22:00:00"),
            ("Europe/Berlin", "2026-07-01T12:00", "2026-01-12", "2026-01-11T23:00:00"),
            ("Europe/Berlin", "2026-07-01T12:00", "10:15", "2026-07-01T08:15:00"),
            ("America/Los_Angeles", "2026-11-30T20:00", "today", "2026-11-30T08:00:00"),
            ("America/Los_Angeles", "2026-11-30T20:00", "2026-11-30 19:00", "2026-12-01T03:00:00"),
            ("Asia/Kathmandu", "2026-11-30T20:00", "2026-11-30 10:00", "2026-11-30T04:15:00"),
            ("<-0930>9:30", "2026-11-30T20:00", "2026-11-30T10:00:00", "2026-11-30T19:30:00"),
            // Start and end of daylight saving time.
            ("Europe/Berlin", "2026-03-29T12:00", "2026-03-29 01:59", "2026-03-29T00:59:00"),
            ("Europe/Berlin", "2026-03-29T12:00", "2026-03-29 02:30", "2026-03-29T01:30:00"),
            ("Europe/Berlin", "2026-03-29T12:00", "today", "2026-03-28T23:00:00"),
            ("Europe/Berlin", "2026-03-29T12:00", "1 day ago", "2026-03-28T11:00:00"),
            ("Europe/Berlin", "2026-03-29T12:00", "24h", "2026-03-28T10:00:00"),
            ("Europe/Berlin", "2026-10-25T12:00", "2026-10-25 02:30", "2026-10-25T00:30:00"),
            ("Europe/Berlin", "2026-10-25T12:00", "2026-10-25 02:30+01:00", "2026-10-25T01:30:00"),
            ("CET-1CEST,M3.5.0,M10.5.0/3", "2026-10-25T12:00", "today", "2026-10-24T22:00:00"),
            ("America/Sao_Paulo", "2018-11-04T12:00", "today", "2018-11-04T03:00:00"),
            ("America/Sao_Paulo", "2018-11-10T12:00", "2018-11-04", "2018-11-04T03:00:00"),
            // A time zone that differs from the local one.
            ("Europe/Berlin", "2026-07-01T12:00", "2026-07-01T10:00:00Z", "2026-07-01T10:00:00"),
            ("Europe/Berlin", "2026-07-01T12:00", "2026-07-01 10:00-05:00", "2026-07-01T15:00:00"),
            ("Europe/Berlin", "2026-07-01T12:00", "2026-07-01T10:00[Asia/Tokyo]", "2026-07-01T01:00:00"),
            ("Europe/Berlin", "2026-07-01T12:00", "+2 days", "2026-07-03T10:00:00"),
        ] {
            assert_eq!(parse_to_utc(zone, now, text), expected, "{zone} {now} {text}");
        }
    }

    #[test]
    fn round_trips_local_times() {
        let utc = "2026-10-25T00:30:00.123Z";
        for (zone, expected) in [
            ("Europe/Berlin", "2026-10-25T02:30:00.123+02:00"),
            ("America/St_Johns", "2026-10-24T22:00:00.123-02:30"),
            ("Pacific/Kiritimati", "2026-10-25T14:30:00.123+14:00"),
            ("UTC", utc),
        ] {
            let shown = format_in_zone(utc, &TimeZone::get(zone).unwrap()).unwrap();
            assert_eq!(shown, expected);
            assert_eq!(parse(&shown, Timestamp::default()).unwrap().to_string(), utc);
        }
        assert_eq!(format_in_zone("", &TimeZone::UTC), None);
        assert_eq!(format_in_zone("soon", &TimeZone::UTC), None);
    }
}
