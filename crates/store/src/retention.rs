use mailtrail_mail::Timestamp;
use std::time::Duration;

/// How long things are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// A finished send with everything known about it, from its last attempt on. Default 30 days, 0 to 10 years.
    pub ledger: Duration,
    /// The message of a finished send, from its acceptance on. Default 0: until it is finished. 0 to 10 years.
    pub bodies: Duration,
    /// The raw form of a provider's report, and events that find no send. Default 30 days, 0 to 10 years.
    pub events: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self { ledger: 30 * ONE_DAY, bodies: Duration::ZERO, events: 30 * ONE_DAY }
    }
}

impl Retention {
    /// Sends that were over by then are forgotten.
    pub fn ledger_horizon(&self, now: Timestamp) -> Timestamp {
        now.saturating_sub(self.ledger)
    }

    /// Messages that were accepted after then are kept.
    pub fn bodies_horizon(&self, now: Timestamp) -> Timestamp {
        now.saturating_sub(self.bodies)
    }

    /// Raw reports and orphans from before are forgotten.
    pub fn events_horizon(&self, now: Timestamp) -> Timestamp {
        now.saturating_sub(self.events)
    }

    /// Nothing that was written before is needed any more, but by mail that still waits.
    pub fn overall_horizon(&self, now: Timestamp) -> Timestamp {
        now.saturating_sub(self.max_age())
    }

    /// Age at which nothing is needed any more. A day of grace: reports come later than the sends they are about.
    pub fn max_age(&self) -> Duration {
        self.ledger.max(self.events) + ONE_DAY
    }
}

const ONE_DAY: Duration = Duration::from_secs(86_400);
