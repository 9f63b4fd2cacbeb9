//! How much of a plan is used. Recipients count, as providers count them, in calendar days or months (UTC).

use crate::clock::Timestamp;
use std::ops::RangeInclusive;

/// What a plan allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Recipients; at least one.
    pub recipients: u64,
    /// In which time.
    pub period: Period,
}

/// The time that a plan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// A day (UTC).
    Day,
    /// A calendar month (UTC).
    Month,
}

/// What is used of a plan.
#[derive(Debug)]
pub struct Quota {
    plan: Plan,
    days: RangeInclusive<u16>,
    used: u64,
}

impl Period {
    /// The days of the period around `now`.
    pub fn days(self, now: Timestamp) -> RangeInclusive<u16> {
        match self {
            Self::Day => now.day()..=now.day(),
            Self::Month => now.month(),
        }
    }
}

impl Quota {
    /// What is used at `now`; `used` says what was on some days.
    pub fn new(plan: Plan, now: Timestamp, used: impl FnOnce(RangeInclusive<u16>) -> u64) -> Self {
        let days = plan.period.days(now);
        Self { plan, used: used(days.clone()), days }
    }

    /// So many recipients were taken.
    pub fn count(&mut self, recipients: u64, now: Timestamp) {
        self.turn(now);
        self.used = self.used.saturating_add(recipients);
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
        let again = Timestamp::from_seconds((u64::from(*self.days.end()) + 1) * 86_400);
        (self.used >= self.plan.recipients).then_some(again)
    }

    fn turn(&mut self, now: Timestamp) {
        if now.day() > *self.days.end() {
            (self.days, self.used) = (self.plan.period.days(now), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_used_up_until_its_time_is_over() {
        // 2026-02-27T12:00:00Z
        let now = Timestamp::from_seconds(1_772_193_600);
        let plan = Plan { recipients: 200, period: Period::Month };
        let mut quota = Quota::new(plan, now, |days| {
            assert_eq!(days, 20_485..=20_512);
            150
        });
        assert_eq!((quota.percent(now), quota.used_up_until(now)), (75, None));
        quota.count(50, now);
        let march = Timestamp::from_seconds(1_772_323_200);
        assert_eq!((quota.percent(now), quota.used_up_until(now)), (100, Some(march)));
        assert_eq!((quota.percent(march), quota.used_up_until(march)), (0, None));
    }
}
