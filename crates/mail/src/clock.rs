//! Wall-clock time, passed in everywhere so that tests control it.

mod watch;

pub use watch::{ClockStep, ClockWatch};

use jiff::{SignedDuration, Zoned, tz::TimeZone};
use rustix::time::ClockId;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A moment: milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// A moment by its milliseconds since the epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// A moment by its seconds since the epoch.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the epoch.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// Whole days (UTC) since the epoch.
    pub const fn day_number(self) -> u16 {
        (self.0 / 86_400_000) as u16
    }

    /// The days, as [`Self::day_number`] counts them, of the calendar month (UTC).
    pub fn days_of_month(self) -> RangeInclusive<u16> {
        let today = self.to_zoned().date();
        let first = self.day_number() - (today.day() as u16 - 1);
        first..=first + (today.days_in_month() as u16 - 1)
    }

    /// This moment and `duration` more; stops at the end of time instead of wrapping.
    pub fn saturating_add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// This moment and `duration` less; stops at the epoch.
    pub fn saturating_sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// Returns the time since `earlier`; zero if it is in the future.
    pub fn duration_since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// As a mail header writes it (RFC 5322 section 3.3), in UTC.
    pub fn to_rfc5322(self) -> String {
        jiff::fmt::rfc2822::to_string(&self.to_zoned())
            .unwrap_or_else(|_| "Thu, 1 Jan 1970 00:00:00 +0000".into())
    }

    /// A date as RFC 5322 (or its obsolete zone names) writes it.
    pub fn parse_rfc5322(text: &str) -> Option<Self> {
        let parsed = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text.trim()).ok()?;
        u64::try_from(parsed.as_millisecond()).ok().map(Self)
    }

    /// A moment as RFC 3339 writes it, in any zone; earlier ones than 1970 are none.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let parsed: jiff::Timestamp = text.trim().parse().ok()?;
        u64::try_from(parsed.as_millisecond()).ok().map(Self)
    }

    /// Parses a time in any form that providers use: RFC 3339 and ISO 8601 (UTC without a zone), RFC 5322, seconds or
    /// milliseconds since the epoch. `None` for anything else.
    pub fn parse_any(text: &str) -> Option<Self> {
        let text = text.trim();
        let in_utc = || -> Option<Self> {
            let moment = text.parse::<jiff::civil::DateTime>().ok()?.to_zoned(TimeZone::UTC).ok()?;
            u64::try_from(moment.timestamp().as_millisecond()).ok().map(Self)
        };
        let number = || Self::from_unix_number(text.parse().ok()?);
        number()
            .or_else(|| Self::parse_rfc3339(text))
            .or_else(|| Self::parse_rfc5322(text))
            .or_else(in_utc)
            .filter(|at| *at > Self::default())
    }

    /// Converts seconds since the epoch or, if that would be after the year 5138, milliseconds. `None` for times before
    /// 1973.
    pub fn from_unix_number(number: f64) -> Option<Self> {
        let millis = if number < MIN_MILLIS { number * 1000.0 } else { number };
        (MIN_MILLIS..MAX_MILLIS as f64).contains(&millis).then_some(Self(millis.round() as u64))
    }

    fn to_zoned(self) -> Zoned {
        jiff::Timestamp::from_duration(SignedDuration::from_millis(self.0.min(MAX_MILLIS) as i64))
            .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
            .to_zoned(TimeZone::UTC)
    }
}

/// RFC 3339 in UTC with milliseconds.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to_zoned().strftime("%Y-%m-%dT%H:%M:%S%.3fZ"))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Clock that changes only when it is set.
#[derive(Debug, Default)]
pub struct ManualClock {
    wall_clock_ms: AtomicU64,
    /// Elapsed milliseconds.
    monotonic_ms: AtomicU64,
}

impl ManualClock {
    /// It is that time now, by time that has passed.
    pub fn advance_to(&self, now: Timestamp) {
        let before = self.wall_clock_ms.swap(now.as_millis(), Ordering::Relaxed);
        self.monotonic_ms.fetch_add(now.as_millis().saturating_sub(before), Ordering::Relaxed);
    }

    /// The clock is set to that time, and none has passed.
    pub fn set_wall_clock(&self, now: Timestamp) {
        self.wall_clock_ms.store(now.as_millis(), Ordering::Relaxed);
    }
}

/// Where the time comes from.
#[derive(Clone, Copy, Debug)]
pub enum Clock {
    /// The clock of the machine.
    System,
    /// Starts at a chosen moment and runs with the runtime's timer, which tests may pause and advance.
    TokioTime {
        /// The time at `origin`.
        start: Timestamp,
        /// When the clock was made.
        origin: tokio::time::Instant,
    },
    /// A clock set by a test, which may pass years in minutes.
    Manual(&'static ManualClock),
}

impl Clock {
    /// A clock that follows the runtime's timer from `start` on.
    pub fn tokio_time(start: Timestamp) -> Self {
        Self::TokioTime { start, origin: tokio::time::Instant::now() }
    }

    /// Returns the current time.
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => {
                let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
                Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
            }
            Self::TokioTime { start, origin } => start.saturating_add(origin.elapsed()),
            Self::Manual(moment) => Timestamp(moment.wall_clock_ms.load(Ordering::Relaxed)),
        }
    }

    /// Returns the time since an arbitrary moment in the past, unaffected by clock steps; for the machine's clock since
    /// boot, including sleep (CLOCK_BOOTTIME).
    pub fn monotonic(&self) -> Duration {
        match self {
            Self::System => {
                let passed = rustix::time::clock_gettime(ClockId::Boottime);
                Duration::try_from(passed).unwrap_or_default()
            }
            Self::TokioTime { origin, .. } => origin.elapsed(),
            Self::Manual(moment) => Duration::from_millis(moment.monotonic_ms.load(Ordering::Relaxed)),
        }
    }
}

/// Numbers below it are seconds: in milliseconds they would be in 1973.
const MIN_MILLIS: f64 = 1e11;
/// 9999-12-30, the last day that a date can be written for.
const MAX_MILLIS: u64 = 253_402_207_200_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_times_in_every_form() {
        let at = Timestamp::from_secs(1_789_387_206);
        for text in [
            "2026-09-14T12:00:06Z",
            "2026-09-14T12:00:06.000Z",
            "2026-09-14T14:00:06+02:00",
            "2026-09-14T14:00:06+0200",
            "2026-09-14 12:00:06Z",
            "2026-09-14t12:00:06z",
            "20260914T120006Z",
            "2026-09-14T12:00:06",
            " 2026-09-14 12:00:06 ",
            "Mon, 14 Sep 2026 12:00:06 UTC",
            "Mon, 14 Sep 2026 12:00:06 GMT",
            "14 Sep 2026 14:00:06 +0200",
            "1789387206",
            "1789387206.0",
            "1789387206000",
        ] {
            assert_eq!(Timestamp::parse_any(text), Some(at), "{text}");
        }
        assert_eq!(Timestamp::parse_any("2026-09-14"), Some(Timestamp::from_secs(1_789_344_000)));
        for none in
            ["", "yesterday", "0", "-1", "NaN", "1e300", "inf", "1969-12-31T00:00:00Z", "2026-13-01", "7"]
        {
            assert_eq!(Timestamp::parse_any(none), None, "{none}");
        }
    }

    #[test]
    fn formats_and_parses_standard_dates() {
        let base = Timestamp::from_secs(1_789_387_200);
        assert_eq!(base.to_rfc5322(), "Mon, 14 Sep 2026 12:00:00 +0000");
        assert_eq!(base.to_string(), "2026-09-14T12:00:00.000Z");
        let exact = Timestamp::from_millis(1_789_387_200_123);
        assert_eq!(Timestamp::parse_rfc3339(&exact.to_string()), Some(exact));
        assert_eq!(Timestamp::parse_rfc3339("2026-09-14T14:00:00+02:00"), Some(base));
        assert_eq!(Timestamp::parse_rfc3339("2026-09-14"), None);
        assert_eq!(Timestamp::parse_rfc5322("Mon, 14 Sep 2026 12:00:00 UTC"), Some(base));
        assert_eq!(Timestamp::parse_rfc3339(" 2026-09-14T07:00:00.000-05:00 "), Some(base));
        assert_eq!(
            ["", "2026-09-14T12:00:00", "1969-12-31T23:59:59Z"].map(Timestamp::parse_rfc3339),
            [None; 3]
        );
        assert_eq!(Timestamp::from_millis(u64::MAX).to_string().len(), 24);
    }
}
