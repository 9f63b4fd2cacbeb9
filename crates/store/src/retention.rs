//! Retention periods, and the points in time that follow from them.

use mailtrail_mail::Timestamp;
use std::time::Duration;

/// Retention periods of stored data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Finished messages and their trails, from the last attempt on. Default: 30 days. Range: 0 to 10 years.
    pub ledger: Duration,
    /// Bodies of finished messages, from acceptance on. Default: 0, until the message is finished. Range: 0
    /// to 10 years.
    pub bodies: Duration,
    /// Raw forms of provider events, and orphaned events. Default: 30 days. Range: 0 to 10 years.
    pub events: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self { ledger: 30 * ONE_DAY, bodies: Duration::ZERO, events: 30 * ONE_DAY }
    }
}

impl Retention {
    /// Returns the time before which finished messages are past retention.
    pub fn ledger_horizon(&self, now: Timestamp) -> Timestamp {
        now.saturating_sub(self.ledger)
    }

    /// Returns the acceptance time after which bodies are retained.
    pub fn bodies_horizon(&self, now: Timestamp) -> Timestamp {
        now.saturating_sub(self.bodies)
    }

    /// Returns the time before which raw events and orphans are past retention.
    pub fn events_horizon(&self, now: Timestamp) -> Timestamp {
        now.saturating_sub(self.events)
    }

    /// Returns the time before which no record is needed, except those of queued messages.
    pub fn overall_horizon(&self, now: Timestamp) -> Timestamp {
        now.saturating_sub(self.max_age())
    }

    /// Returns the age at which nothing is needed any more. It includes one day of grace, since events arrive
    /// later than their messages.
    pub fn max_age(&self) -> Duration {
        self.ledger.max(self.events) + ONE_DAY
    }
}

const ONE_DAY: Duration = Duration::from_secs(86_400);
