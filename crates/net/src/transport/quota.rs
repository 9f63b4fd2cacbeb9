//! How much of a plan is used. Recipients count, as providers count them, in hours, calendar days or months (UTC).

use mailtrail_mail::Timestamp;
use std::ops::Range;

/// Limit of a quota: recipients per period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QuotaLimit {
    /// Recipients; at least one.
    pub recipients: u64,
    /// In which time.
    pub period: QuotaPeriod,
}

/// The time that a plan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QuotaPeriod {
    /// An hour; not for upstreams, because the ledger counts relayed recipients by day.
    Hour,
    /// A day (UTC).
    Day,
    /// A calendar month (UTC).
    Month,
}

/// What is used of a plan.
#[derive(Debug)]
pub struct Quota {
    limit: QuotaLimit,
    /// When its period is over.
    period_end: Timestamp,
    used: u64,
    /// Time of the last use: setting the clock back does not extend the period.
    last_seen: Timestamp,
}

impl QuotaPeriod {
    /// The period around `now`.
    pub fn containing(self, now: Timestamp) -> Range<Timestamp> {
        let midnight = |day: u16| u64::from(day) * SECONDS_PER_DAY;
        let (start, end) = match self {
            Self::Hour => (
                now.as_secs() / SECONDS_PER_HOUR * SECONDS_PER_HOUR,
                (now.as_secs() / SECONDS_PER_HOUR + 1) * SECONDS_PER_HOUR,
            ),
            Self::Day => (midnight(now.day_number()), midnight(now.day_number()) + SECONDS_PER_DAY),
            Self::Month => (
                midnight(*now.days_of_month().start()),
                midnight(*now.days_of_month().end()) + SECONDS_PER_DAY,
            ),
        };
        Timestamp::from_secs(start)..Timestamp::from_secs(end)
    }
}

impl Quota {
    /// Creates a quota at `now`; `used` returns the usage in a time range.
    pub fn new(limit: QuotaLimit, now: Timestamp, used: impl FnOnce(Range<Timestamp>) -> u64) -> Self {
        let period = limit.period.containing(now);
        Self { limit, period_end: period.end, used: used(period), last_seen: now }
    }

    /// Returns the limit.
    pub fn limit(&self) -> QuotaLimit {
        self.limit
    }

    /// Counts accepted recipients.
    pub fn consume(&mut self, recipients: u64, now: Timestamp) {
        self.roll_over(now);
        self.used = self.used.saturating_add(recipients);
    }

    /// Takes back recipients that were not accepted.
    pub fn refund(&mut self, recipients: u64) {
        self.used = self.used.saturating_sub(recipients);
    }

    /// Of the plan, in percent.
    pub fn percent_used(&mut self, now: Timestamp) -> u64 {
        self.roll_over(now);
        u64::try_from(u128::from(self.used) * 100 / u128::from(self.limit.recipients.max(1)))
            .unwrap_or(u64::MAX)
    }

    /// When there will be something again, if nothing is left.
    pub fn exhausted_until(&mut self, now: Timestamp) -> Option<Timestamp> {
        self.roll_over(now);
        (self.used >= self.limit.recipients).then_some(self.period_end)
    }

    fn roll_over(&mut self, now: Timestamp) {
        if now >= self.period_end {
            (self.period_end, self.used) = (self.limit.period.containing(now).end, 0);
        } else if now < self.last_seen {
            self.period_end = self.period_end.min(self.limit.period.containing(now).end);
        }
        self.last_seen = now;
    }
}

const SECONDS_PER_HOUR: u64 = 3600;
const SECONDS_PER_DAY: u64 = 86_400;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn quota_is_exhausted_until_period_ends() {
        // 2026-02-27T12:00:00Z
        let now = Timestamp::from_secs(1_772_193_600);
        let plan = QuotaLimit { recipients: 200, period: QuotaPeriod::Month };
        let days = |first: u64, end: u64| [first, end].map(|day| Timestamp::from_secs(day * SECONDS_PER_DAY));
        let mut quota = Quota::new(plan, now, |month| {
            assert_eq!([month.start, month.end], days(20_485, 20_513));
            150
        });
        assert_eq!((quota.percent_used(now), quota.exhausted_until(now)), (75, None));
        quota.consume(50, now);
        let march = Timestamp::from_secs(1_772_323_200);
        assert_eq!((quota.percent_used(now), quota.exhausted_until(now)), (100, Some(march)));
        quota.refund(1);
        assert_eq!((quota.percent_used(now), quota.exhausted_until(now)), (99, None));
        assert_eq!((quota.percent_used(march), quota.exhausted_until(march)), (0, None));
        // The clock was a year ahead for a moment, in which all was used up again.
        let year = march.saturating_add(Duration::from_secs(365 * SECONDS_PER_DAY));
        quota.consume(200, year);
        assert!(quota.exhausted_until(year).is_some());
        assert_eq!(quota.exhausted_until(now), Some(march));
        assert_eq!(quota.exhausted_until(march), None);
        let today = QuotaPeriod::Day.containing(now);
        assert_eq!([today.start, today.end], days(20_511, 20_512));
        let hour = QuotaPeriod::Hour.containing(Timestamp::from_secs(now.as_secs() + 3599));
        assert_eq!([hour.start.as_secs(), hour.end.as_secs()], [1_772_193_600, 1_772_197_200]);
    }
}
