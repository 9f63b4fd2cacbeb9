//! How much of a plan is used. Recipients count, as providers count them, in hours, calendar days or months (UTC).

use mailtrail_mail::Timestamp;
use std::ops::Range;

/// What a plan allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// Recipients; at least one.
    pub recipients: u64,
    /// In which time.
    pub period: Period,
}

/// The time that a plan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Period {
    /// An hour. The ledger knows what an upstream took by the day only: none of an upstream has this one.
    Hour,
    /// A day (UTC).
    Day,
    /// A calendar month (UTC).
    Month,
}

/// What is used of a plan.
#[derive(Debug)]
pub struct Quota {
    plan: Plan,
    /// When its period is over.
    ends: Timestamp,
    used: u64,
    /// When it was asked last: a clock that was set back since does not make its period longer.
    asked: Timestamp,
}

impl Period {
    /// The period around `now`.
    pub fn around(self, now: Timestamp) -> Range<Timestamp> {
        let midnight = |day: u16| u64::from(day) * DAY;
        let (start, end) = match self {
            Self::Hour => (now.seconds() / HOUR * HOUR, (now.seconds() / HOUR + 1) * HOUR),
            Self::Day => (midnight(now.day()), midnight(now.day()) + DAY),
            Self::Month => (midnight(*now.month().start()), midnight(*now.month().end()) + DAY),
        };
        Timestamp::from_seconds(start)..Timestamp::from_seconds(end)
    }
}

impl Quota {
    /// What is used at `now`; `used` says what was in some time.
    pub fn new(plan: Plan, now: Timestamp, used: impl FnOnce(Range<Timestamp>) -> u64) -> Self {
        let period = plan.period.around(now);
        Self { plan, ends: period.end, used: used(period), asked: now }
    }

    /// What it is counted against.
    pub fn plan(&self) -> Plan {
        self.plan
    }

    /// So many recipients were taken.
    pub fn count(&mut self, recipients: u64, now: Timestamp) {
        self.turn(now);
        self.used = self.used.saturating_add(recipients);
    }

    /// So many were not taken after all.
    pub fn give_back(&mut self, recipients: u64) {
        self.used = self.used.saturating_sub(recipients);
    }

    /// Of the plan, in percent.
    pub fn percent(&mut self, now: Timestamp) -> u64 {
        self.turn(now);
        u64::try_from(u128::from(self.used) * 100 / u128::from(self.plan.recipients.max(1)))
            .unwrap_or(u64::MAX)
    }

    /// When there will be something again, if nothing is left.
    pub fn used_up_until(&mut self, now: Timestamp) -> Option<Timestamp> {
        self.turn(now);
        (self.used >= self.plan.recipients).then_some(self.ends)
    }

    fn turn(&mut self, now: Timestamp) {
        if now >= self.ends {
            (self.ends, self.used) = (self.plan.period.around(now).end, 0);
        } else if now < self.asked {
            self.ends = self.ends.min(self.plan.period.around(now).end);
        }
        self.asked = now;
    }
}

const HOUR: u64 = 3600;
const DAY: u64 = 86_400;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_plan_is_used_up_until_its_time_is_over() {
        // 2026-02-27T12:00:00Z
        let now = Timestamp::from_seconds(1_772_193_600);
        let plan = Plan { recipients: 200, period: Period::Month };
        let days = |first: u64, end: u64| [first, end].map(|day| Timestamp::from_seconds(day * DAY));
        let mut quota = Quota::new(plan, now, |month| {
            assert_eq!([month.start, month.end], days(20_485, 20_513));
            150
        });
        assert_eq!((quota.percent(now), quota.used_up_until(now)), (75, None));
        quota.count(50, now);
        let march = Timestamp::from_seconds(1_772_323_200);
        assert_eq!((quota.percent(now), quota.used_up_until(now)), (100, Some(march)));
        quota.give_back(1);
        assert_eq!((quota.percent(now), quota.used_up_until(now)), (99, None));
        assert_eq!((quota.percent(march), quota.used_up_until(march)), (0, None));
        // The clock was a year ahead for a moment, in which all was used up again.
        let year = march.after(Duration::from_secs(365 * DAY));
        quota.count(200, year);
        assert!(quota.used_up_until(year).is_some());
        assert_eq!(quota.used_up_until(now), Some(march));
        assert_eq!(quota.used_up_until(march), None);
        let today = Period::Day.around(now);
        assert_eq!([today.start, today.end], days(20_511, 20_512));
        let hour = Period::Hour.around(Timestamp::from_seconds(now.seconds() + 3599));
        assert_eq!([hour.start.seconds(), hour.end.seconds()], [1_772_193_600, 1_772_197_200]);
    }
}
