use crate::transport::settings::Pipelining;
use mailtrail_mail::Timestamp;
use std::time::Duration;

/// How boldly commands are grouped with an upstream that promises PIPELINING and does not keep it: firewalls and
/// filters in between drop what rides behind another command, answer it out of step, or hang up on it. It costs time
/// and, behind a final dot, a message whose end is unknown; so after a few times in a row fewer commands ride together,
/// and after an hour one more try shows whether that is still so.
#[derive(Debug)]
pub struct Grouping {
    configured: Pipelining,
    level: Pipelining,
    until: Timestamp,
    /// Failures in a row of envelopes behind a final dot, and of envelopes said in one go.
    chained: u32,
    grouped: u32,
}

impl Grouping {
    /// As configured, until experience says otherwise.
    pub fn new(configured: Pipelining) -> Self {
        Self { configured, level: configured, until: Timestamp::default(), chained: 0, grouped: 0 }
    }

    /// How new connections group their commands.
    pub fn level(&mut self, now: Timestamp) -> Pipelining {
        if now >= self.until {
            self.level = self.configured;
        }
        self.level
    }

    /// An envelope that went like that was answered as it should be.
    pub fn worked(&mut self, how: Pipelining) {
        if let Some(failures) = self.failures(how) {
            *failures = 0;
        }
    }

    /// An envelope that went like that was not, or the connection broke over it; what is left when that is too much.
    pub fn broke(&mut self, how: Pipelining, now: Timestamp) -> Option<Pipelining> {
        let failures = self.failures(how)?;
        *failures = failures.saturating_add(1);
        let lower = if how == Pipelining::Full { Pipelining::Group } else { Pipelining::Off };
        if *failures < FAILURES || self.level(now) >= lower {
            return None;
        }
        (self.level, self.until) = (lower, now.after(PATIENCE));
        Some(lower)
    }

    fn failures(&mut self, how: Pipelining) -> Option<&mut u32> {
        match how {
            Pipelining::Full => Some(&mut self.chained),
            Pipelining::Group => Some(&mut self.grouped),
            Pipelining::Off => None,
        }
    }
}

/// Failures in a row after which fewer commands go together.
const FAILURES: u32 = 3;
/// Time after which more are tried again.
const PATIENCE: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::Pipelining::{Full, Group, Off};
    use super::*;

    #[test]
    fn three_failures_in_a_row_lower_it_for_an_hour() {
        let at = Timestamp::from_seconds;
        let mut grouping = Grouping::new(Full);
        assert_eq!([grouping.broke(Full, at(1)), grouping.broke(Full, at(1))], [None; 2]);
        grouping.worked(Full);
        assert_eq!([(); 3].map(|()| grouping.broke(Full, at(2))), [None, None, Some(Group)]);
        assert_eq!((grouping.broke(Full, at(2)), grouping.level(at(2))), (None, Group));
        assert_eq!([(); 3].map(|()| grouping.broke(Group, at(3))), [None, None, Some(Off)]);
        assert_eq!((grouping.level(at(3602)), grouping.level(at(3603))), (Off, Full));
        // It has not become better: once is enough.
        assert_eq!((grouping.broke(Full, at(4000)), grouping.level(at(7599))), (Some(Group), Group));
        grouping.level(at(7600));
        grouping.worked(Full);
        assert_eq!((grouping.broke(Full, at(7600)), grouping.level(at(7600))), (None, Full));
    }

    #[test]
    fn what_is_configured_is_never_exceeded() {
        let now = Timestamp::from_seconds(1);
        let mut grouping = Grouping::new(Group);
        assert_eq!([(); 9].map(|()| grouping.broke(Full, now)), [None; 9]);
        assert_eq!(grouping.level(now), Group);
        let mut grouping = Grouping::new(Off);
        assert_eq!([(); 9].map(|()| grouping.broke(Off, now)), [None; 9]);
    }
}
