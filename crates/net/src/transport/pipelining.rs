use crate::transport::settings::Pipelining;
use mailtrail_mail::Timestamp;
use std::time::Duration;

/// Degree of pipelining with an upstream that offers PIPELINING but may not support it: firewalls and filters in
/// between drop pipelined commands, answer them out of order, or close the connection. That costs time and, after a
/// final dot, leaves a message with an unknown result. So after a few failures in a row fewer commands are grouped, and
/// after an hour one attempt tests the configured degree again.
#[derive(Debug)]
pub struct PipeliningLevel {
    configured: Pipelining,
    current: Pipelining,
    lowered_until: Timestamp,
    /// Failures in a row of envelopes that followed a final dot, and of grouped envelopes.
    full_failures: u32,
    group_failures: u32,
}

impl PipeliningLevel {
    /// Starts with the configured degree.
    pub fn new(configured: Pipelining) -> Self {
        Self {
            configured,
            current: configured,
            lowered_until: Timestamp::default(),
            full_failures: 0,
            group_failures: 0,
        }
    }

    /// How new connections group their commands.
    pub fn current(&mut self, now: Timestamp) -> Pipelining {
        if now >= self.lowered_until {
            self.current = self.configured;
        }
        self.current
    }

    /// An envelope that went like that was answered as it should be.
    pub fn on_success(&mut self, how: Pipelining) {
        if let Some(failures) = self.failures_at(how) {
            *failures = 0;
        }
    }

    /// Records a failure of an envelope sent in this way. Returns the reduced degree if there were too many.
    pub fn on_failure(&mut self, how: Pipelining, now: Timestamp) -> Option<Pipelining> {
        let failures = self.failures_at(how)?;
        *failures = failures.saturating_add(1);
        let lower = if how == Pipelining::Full { Pipelining::Group } else { Pipelining::Off };
        if *failures < MAX_FAILURES || self.current(now) >= lower {
            return None;
        }
        (self.current, self.lowered_until) = (lower, now.saturating_add(RETRY_AFTER));
        Some(lower)
    }

    fn failures_at(&mut self, how: Pipelining) -> Option<&mut u32> {
        match how {
            Pipelining::Full => Some(&mut self.full_failures),
            Pipelining::Group => Some(&mut self.group_failures),
            Pipelining::Off => None,
        }
    }
}

/// Failures in a row after which fewer commands go together.
const MAX_FAILURES: u32 = 3;
/// Time after which more are tried again.
const RETRY_AFTER: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::Pipelining::{Full, Group, Off};
    use super::*;

    #[test]
    fn lowers_level_for_an_hour_after_three_failures() {
        let at = Timestamp::from_secs;
        let mut grouping = PipeliningLevel::new(Full);
        assert_eq!([grouping.on_failure(Full, at(1)), grouping.on_failure(Full, at(1))], [None; 2]);
        grouping.on_success(Full);
        assert_eq!([(); 3].map(|()| grouping.on_failure(Full, at(2))), [None, None, Some(Group)]);
        assert_eq!((grouping.on_failure(Full, at(2)), grouping.current(at(2))), (None, Group));
        assert_eq!([(); 3].map(|()| grouping.on_failure(Group, at(3))), [None, None, Some(Off)]);
        assert_eq!((grouping.current(at(3602)), grouping.current(at(3603))), (Off, Full));
        // It has not become better: once is enough.
        assert_eq!((grouping.on_failure(Full, at(4000)), grouping.current(at(7599))), (Some(Group), Group));
        grouping.current(at(7600));
        grouping.on_success(Full);
        assert_eq!((grouping.on_failure(Full, at(7600)), grouping.current(at(7600))), (None, Full));
    }

    #[test]
    fn never_exceeds_configured_level() {
        let now = Timestamp::from_secs(1);
        let mut grouping = PipeliningLevel::new(Group);
        assert_eq!([(); 9].map(|()| grouping.on_failure(Full, now)), [None; 9]);
        assert_eq!(grouping.current(now), Group);
        let mut grouping = PipeliningLevel::new(Off);
        assert_eq!([(); 9].map(|()| grouping.on_failure(Off, now)), [None; 9]);
    }
}
