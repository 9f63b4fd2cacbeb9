//! Retry policy: the time of a message's next attempt. The policy is defined only here.

use mailtrail_mail::Timestamp;
use std::time::Duration;

/// Number and spacing of a message's attempts.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Backoff after the first failure. Default: 30 s; range 100 ms..=1 day.
    pub initial_backoff: Duration,
    /// Multiplier of each further backoff. Default: 2.0; range 1.0..=10.0.
    pub backoff_factor: f64,
    /// Longest backoff. Default: 30 min; range 1 s..=1 day.
    pub max_backoff: Duration,
    /// Fraction by which a backoff varies, so that messages that failed together are not retried together.
    /// Default: 0.1; range 0.0..=1.0.
    pub jitter: f64,
    /// Age at which a message expires. Default: 2 days; range 1 min..=30 days.
    pub give_up_after: Duration,
    /// Time that a message of unknown delivery status waits for a provider's event before it is sent again.
    /// Default: 5 min; range 0 s..=1 day; zero for upstreams without events.
    pub unknown_wait: Duration,
    /// Whether a message of unknown delivery status at this upstream may be sent by another. Default: no. The
    /// recipient may get it twice, and only copies from one provider look like the same mail.
    pub retry_unknown_elsewhere: bool,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            initial_backoff: Duration::from_secs(30),
            backoff_factor: 2.0,
            max_backoff: Duration::from_secs(30 * 60),
            jitter: 0.1,
            give_up_after: Duration::from_secs(2 * 86_400),
            unknown_wait: Duration::from_secs(300),
            retry_unknown_elsewhere: false,
        }
    }
}

impl RetryPolicy {
    /// Returns the time of the next attempt after attempt number `attempt` (from 1) failed at `now`, or
    /// `None` if the message is too old by then. `random` is in 0.0..1.0. `not_before` is the time
    /// requested by the upstream.
    pub fn next_attempt(
        &self,
        accepted: Timestamp,
        now: Timestamp,
        attempt: u32,
        random: f64,
        not_before: Option<Timestamp>,
    ) -> Option<Timestamp> {
        self.next_attempt_within(self.max_backoff, accepted, now, attempt, random, not_before)
    }

    /// Returns the time of the next attempt after one of unknown delivery status. Each further attempt may
    /// deliver another copy, so these backoffs grow without their own bound.
    pub fn next_attempt_after_unknown(
        &self,
        accepted: Timestamp,
        now: Timestamp,
        attempt: u32,
        random: f64,
        not_before: Timestamp,
    ) -> Option<Timestamp> {
        self.next_attempt_within(self.give_up_after, accepted, now, attempt, random, Some(not_before))
    }

    fn next_attempt_within(
        &self,
        longest: Duration,
        accepted: Timestamp,
        now: Timestamp,
        attempt: u32,
        random: f64,
        not_before: Option<Timestamp>,
    ) -> Option<Timestamp> {
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let pause = (self.initial_backoff.as_secs_f64() * self.backoff_factor.powi(exponent))
            .min(longest.as_secs_f64());
        let varied = pause * (1.0 + self.jitter * (2.0 * random - 1.0));
        let due = now.saturating_add(Duration::from_secs_f64(varied.max(0.0)));
        let due = not_before.map_or(due, |requested| requested.max(due));
        let deadline = accepted.saturating_add(self.give_up_after);
        // The last attempt comes at the deadline, not one backoff before it.
        if now >= deadline { None } else { Some(due.min(deadline)) }
    }
}

/// Delay before an outcome that could not be stored is stored again.
pub const STORE_RETRY_INTERVAL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_with_default_policy() {
        let retry = RetryPolicy::default();
        let start = Timestamp::from_secs(1000);
        let pause = |attempt| {
            retry
                .next_attempt(start, start, attempt, 0.5, None)
                .map(|due| due.duration_since(start).as_secs())
        };
        assert_eq!([1, 2, 3, 7, 8, 1000].map(pause), [30, 60, 120, 1800, 1800, 1800].map(Some));
    }

    #[test]
    fn backoff_after_unknown_grows_without_maximum() {
        let retry = RetryPolicy::default();
        let accepted = Timestamp::from_secs(1000);
        let (mut now, mut copies) = (accepted, 1);
        while let Some(due) = retry.next_attempt_after_unknown(
            accepted,
            now,
            copies,
            0.5,
            now.saturating_add(retry.unknown_wait),
        ) {
            (now, copies) = (due, copies + 1);
        }
        assert_eq!((copies, now), (14, accepted.saturating_add(retry.give_up_after)));
    }

    #[test]
    fn jitter_stays_within_bounds() {
        let retry = RetryPolicy::default();
        let start = Timestamp::from_secs(1000);
        let pause = |random| {
            retry.next_attempt(start, start, 1, random, None).unwrap().duration_since(start).as_millis()
        };
        assert_eq!((pause(0.0), pause(0.999_999_9)), (27_000, 32_999));
    }

    #[test]
    fn last_attempt_is_at_deadline() {
        let retry = RetryPolicy::default();
        let accepted = Timestamp::from_secs(1000);
        let deadline = accepted.saturating_add(retry.give_up_after);
        let late = Timestamp::from_millis(deadline.as_millis() - 1000);
        assert_eq!(retry.next_attempt(accepted, late, 9, 0.5, None), Some(deadline));
        assert_eq!(retry.next_attempt(accepted, deadline, 9, 0.5, None), None);
        let requested = accepted.saturating_add(Duration::from_secs(4000));
        assert_eq!(retry.next_attempt(accepted, accepted, 1, 0.5, Some(requested)), Some(requested));
    }
}
