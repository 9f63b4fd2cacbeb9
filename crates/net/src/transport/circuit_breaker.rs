//! Leaves an upstream alone that cannot take mail, and finds out gently when it can again.

use crate::transport::reply_policy::Certainty;
use crate::transport::suspicion::Suspicion;
use mailtrail_mail::{Timestamp, TrackingId};
use std::time::Duration;

/// When an upstream is left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Failures in a row that open the breaker. Default 5, 1 to 1000.
    pub failure_threshold: u32,
    /// Probes in a row that must succeed before it closes. Default 1, 1 to 100.
    pub success_threshold: u32,
    /// The first pause before a probe. Default 10 s, 100 ms to 1 h; doubles with every failed probe, and when it opens
    /// again right after it closed.
    pub initial_pause: Duration,
    /// The longest pause. Default 5 min, 1 s to 1 day.
    pub max_pause: Duration,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            failure_threshold: 5,
            success_threshold: 1,
            initial_pause: Duration::from_secs(10),
            max_pause: Duration::from_secs(300),
        }
    }
}

/// State of a circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Messages are sent.
    Closed,
    /// No messages are sent until a time.
    Open {
        /// When a probe may go.
        until: Timestamp,
    },
    /// One probe at a time.
    HalfOpen,
    /// Nothing until an operator closes it.
    ForcedOpen,
}

impl BreakerState {
    /// Returns the word used in tables and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open { .. } | Self::ForcedOpen => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// Circuit breaker of one upstream. A fault of one message must not stop others: if a failure may be caused by the
/// message, only failures of different messages count.
#[derive(Debug)]
pub struct CircuitBreaker {
    settings: BreakerSettings,
    state: BreakerState,
    failures: u32,
    successes: u32,
    pause: Duration,
    closed_at: Timestamp,
    reason: String,
    /// The message over which a probe's connection broke last.
    connection_lost_on: Option<TrackingId>,
    suspicion: Suspicion,
    /// Time of a probe while open, set if only replies to single messages indicate a failure of the upstream.
    early_probe_at: Option<Timestamp>,
}

impl CircuitBreaker {
    /// Creates a closed breaker.
    pub fn new(settings: BreakerSettings) -> Self {
        let (pause, closed_at) = (settings.initial_pause, Timestamp::default());
        Self {
            settings,
            state: BreakerState::Closed,
            failures: 0,
            successes: 0,
            pause,
            closed_at,
            reason: String::new(),
            connection_lost_on: None,
            suspicion: Suspicion::default(),
            early_probe_at: None,
        }
    }

    /// Returns the current state.
    pub fn state(&self) -> BreakerState {
        self.state
    }

    /// Reason for which it is not closed.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Lets a probe through when it is time for one. The caller lets one through at a time, and another when that
    /// ended without finding out: its message was at fault, or lost.
    pub fn try_half_open(&mut self, now: Timestamp) {
        if matches!(self.state, BreakerState::Open { until } if now >= until) {
            self.enter_half_open();
        }
    }

    /// When a probe may go although it is open, for mail that no other upstream takes.
    pub fn early_probe_at(&self) -> Option<Timestamp> {
        self.early_probe_at.filter(|_| matches!(self.state, BreakerState::Open { .. }))
    }

    /// Lets such a probe through.
    pub fn try_early_probe(&mut self, now: Timestamp) {
        if self.early_probe_at().is_some_and(|at| now >= at) {
            self.enter_half_open();
        }
    }

    fn enter_half_open(&mut self) {
        (self.state, self.successes, self.failures) = (BreakerState::HalfOpen, 0, 0);
        (self.connection_lost_on, self.early_probe_at) = (None, None);
    }

    /// The upstream works: it decided about a message. True when that closed the breaker; only probes do, not an
    /// answer on a connection from before it opened.
    pub fn record_success(&mut self, now: Timestamp) -> bool {
        match self.state {
            BreakerState::Open { .. } | BreakerState::ForcedOpen => false,
            BreakerState::Closed => {
                self.failures = 0;
                false
            }
            BreakerState::HalfOpen => {
                self.successes += 1;
                let enough = self.successes >= self.settings.success_threshold;
                if enough {
                    self.close(now);
                }
                enough
            }
        }
    }

    /// The upstream took a message.
    pub fn record_accepted(&mut self) {
        self.suspicion.record_accepted();
    }

    /// The connection broke over a message, and how. One message may be the cause of any number of that, so at least two
    /// failures count; and probes that failed such leave the way to others until as many different messages failed as
    /// open a closed breaker. True when that opened the breaker.
    pub fn connection_lost_on(&mut self, now: Timestamp, id: TrackingId, reason: &str) -> bool {
        let enough = self.settings.failure_threshold.max(2);
        match self.state {
            BreakerState::HalfOpen if self.connection_lost_on == Some(id) => return false,
            BreakerState::HalfOpen | BreakerState::Closed if self.failures + 1 < enough => {
                self.failures += 1;
                self.connection_lost_on = Some(id);
                return false;
            }
            BreakerState::HalfOpen
            | BreakerState::Closed
            | BreakerState::Open { .. }
            | BreakerState::ForcedOpen => {}
        }
        self.record_failure(now, reason)
    }

    /// Records a failure of the upstream. Returns true if it opened the breaker.
    pub fn record_failure(&mut self, now: Timestamp, reason: &str) -> bool {
        self.failures = self.failures.saturating_add(1);
        match self.state {
            BreakerState::Closed if self.failures < self.settings.failure_threshold => return false,
            BreakerState::Closed if now.duration_since(self.closed_at) > self.settings.max_pause => {
                self.pause = self.settings.initial_pause;
            }
            BreakerState::Closed | BreakerState::HalfOpen => {
                self.pause = (self.pause * 2).min(self.settings.max_pause);
            }
            // Attempts that were in progress when it opened.
            BreakerState::Open { .. } | BreakerState::ForcedOpen => return false,
        }
        let opened = self.state == BreakerState::Closed;
        self.state = BreakerState::Open { until: now.saturating_add(self.pause) };
        self.early_probe_at = None;
        reason.clone_into(&mut self.reason);
        opened
    }

    /// Returns whether a reply about the upstream concerns only this message, because other messages have been accepted
    /// since.
    pub fn is_refuted(&self, id: TrackingId) -> bool {
        self.suspicion.is_refuted(id)
    }

    /// Records a throttling reply to a message.
    pub fn record_throttled(&mut self, id: TrackingId) {
        self.suspicion.remember_refusal(id);
    }

    /// Records a reply to one message which says that the upstream accepts nothing before `until`. Another message's
    /// reply may refute it, so a probe is allowed earlier, after a pause that doubles with each confirmation. Returns
    /// true if it opened the breaker.
    pub fn record_suspected(
        &mut self,
        now: Timestamp,
        id: TrackingId,
        certainty: Certainty,
        until: Timestamp,
        reason: &str,
    ) -> bool {
        let confirmed = self.suspicion.record_refusal(id);
        let known = matches!(self.state, BreakerState::Open { .. }) && self.early_probe_at.is_none();
        if known || self.state == BreakerState::ForcedOpen || certainty < Certainty::Likely && !confirmed {
            return false;
        }
        match self.state {
            BreakerState::HalfOpen if confirmed => self.pause = (self.pause * 2).min(self.settings.max_pause),
            BreakerState::HalfOpen | BreakerState::Open { .. } => {}
            BreakerState::Closed | BreakerState::ForcedOpen => self.pause = self.settings.initial_pause,
        }
        let opened = self.open_until(now, until, reason);
        self.early_probe_at = Some(now.saturating_add(self.pause));
        opened
    }

    /// Opens the breaker until a time that the upstream requested, at most for a day. Returns true if it opened the
    /// breaker.
    pub fn open_until(&mut self, now: Timestamp, until: Timestamp, reason: &str) -> bool {
        if self.state == BreakerState::ForcedOpen {
            return false;
        }
        let opened = self.state == BreakerState::Closed;
        self.state = BreakerState::Open { until: until.min(now.saturating_add(MAX_RETRY_AFTER)) };
        self.early_probe_at = None;
        reason.clone_into(&mut self.reason);
        opened
    }

    /// Moves all times back after the clock was set back.
    pub fn on_clock_set_back(&mut self, back: Duration) {
        if let BreakerState::Open { until } = &mut self.state {
            *until = until.saturating_sub(back);
        }
        self.early_probe_at = self.early_probe_at.map(|at| at.saturating_sub(back));
        self.closed_at = self.closed_at.saturating_sub(back);
    }

    /// An operator opens it.
    pub fn force_open(&mut self, reason: &str) {
        self.state = BreakerState::ForcedOpen;
        reason.clone_into(&mut self.reason);
    }

    /// An operator, or enough probes, close it.
    pub fn close(&mut self, now: Timestamp) {
        (self.state, self.closed_at) = (BreakerState::Closed, now);
        (self.failures, self.successes) = (0, 0);
        (self.connection_lost_on, self.early_probe_at) = (None, None);
        self.reason.clear();
    }
}

const MAX_RETRY_AFTER: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests {
    use super::*;

    fn at_second(seconds: u64) -> Timestamp {
        Timestamp::from_secs(seconds)
    }

    /// Fails so often that it opens.
    fn fail_until_open(breaker: &mut CircuitBreaker, now: Timestamp) {
        (1..breaker.settings.failure_threshold).for_each(|_| assert!(!breaker.record_failure(now, "no")));
        assert!(breaker.record_failure(now, "no"));
    }

    #[test]
    fn opens_half_opens_and_closes() {
        let mut breaker =
            CircuitBreaker::new(BreakerSettings { success_threshold: 2, ..BreakerSettings::default() });
        fail_until_open(&mut breaker, at_second(1000));
        assert!(!breaker.record_failure(at_second(1000), "late") && breaker.reason() == "no");
        breaker.try_half_open(at_second(1009));
        assert_eq!(breaker.state(), BreakerState::Open { until: at_second(1010) });
        breaker.try_half_open(at_second(1010));
        assert!(breaker.state() == BreakerState::HalfOpen && !breaker.record_success(at_second(1010)));
        assert!(!breaker.record_failure(at_second(1010), "no"), "it was not closed");
        assert_eq!(breaker.state(), BreakerState::Open { until: at_second(1030) });
        breaker.try_half_open(at_second(1030));
        assert!(!breaker.record_success(at_second(1030)) && breaker.record_success(at_second(1031)));
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[test]
    fn pause_doubles_up_to_maximum_and_resets_when_stable() {
        let mut breaker = CircuitBreaker::new(BreakerSettings::default());
        let mut now = at_second(1000);
        let mut pauses = Vec::new();
        fail_until_open(&mut breaker, now);
        for round in 0..8 {
            let BreakerState::Open { until } = breaker.state() else { panic!("{:?}", breaker.state()) };
            pauses.push(until.duration_since(now).as_secs());
            now = until;
            breaker.try_half_open(now);
            if round % 2 == 0 {
                breaker.record_failure(now, "no");
            } else {
                // Closed, and open again at once.
                assert!(breaker.record_success(now));
                fail_until_open(&mut breaker, now);
            }
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 300, 300, 300]);
        breaker.close(now);
        let later = now.saturating_add(Duration::from_secs(301));
        fail_until_open(&mut breaker, later);
        assert_eq!(
            breaker.state(),
            BreakerState::Open { until: later.saturating_add(Duration::from_secs(10)) }
        );
    }

    fn test_id(number: u128) -> TrackingId {
        TrackingId::from_bytes(number.to_be_bytes())
    }

    #[test]
    fn probes_lost_on_one_message_do_not_open() {
        let mut breaker =
            CircuitBreaker::new(BreakerSettings { failure_threshold: 3, ..BreakerSettings::default() });
        fail_until_open(&mut breaker, at_second(1000));
        breaker.try_half_open(at_second(1010));
        for second in 1010..1020 {
            assert!(!breaker.connection_lost_on(at_second(second), test_id(1), "broke"));
            assert_eq!(breaker.state(), BreakerState::HalfOpen);
        }
        assert!(
            !breaker.connection_lost_on(at_second(1020), test_id(2), "broke")
                && breaker.state() == BreakerState::HalfOpen
        );
        assert!(!breaker.connection_lost_on(at_second(1020), test_id(1), "broke"), "it was not closed");
        assert_eq!(
            (breaker.state(), breaker.reason()),
            (BreakerState::Open { until: at_second(1040) }, "broke")
        );
        breaker.try_half_open(at_second(1040));
        assert!(
            !breaker.connection_lost_on(at_second(1040), test_id(1), "broke")
                && breaker.record_success(at_second(1040))
        );
    }

    #[test]
    fn single_failure_on_a_message_does_not_open() {
        let mut breaker =
            CircuitBreaker::new(BreakerSettings { failure_threshold: 1, ..BreakerSettings::default() });
        assert!(!breaker.connection_lost_on(at_second(1), test_id(1), "no"));
        assert!(
            !breaker.record_success(at_second(1))
                && !breaker.connection_lost_on(at_second(1), test_id(1), "no")
        );
        assert!(breaker.connection_lost_on(at_second(2), test_id(1), "no"));
        let mut breaker =
            CircuitBreaker::new(BreakerSettings { failure_threshold: 1, ..BreakerSettings::default() });
        assert!(breaker.record_failure(at_second(1), "no"));
    }

    #[test]
    fn suspected_refusal_is_probed_with_other_messages() {
        use Certainty::{Likely, Possible};
        let mut breaker = CircuitBreaker::new(BreakerSettings::default());
        assert!(!breaker.record_suspected(at_second(1000), test_id(1), Possible, at_second(9000), "no"));
        assert_eq!(breaker.state(), BreakerState::Closed);
        assert!(
            breaker.record_suspected(at_second(1000), test_id(2), Possible, at_second(9000), "no"),
            "another's"
        );
        assert_eq!(
            (breaker.state(), breaker.early_probe_at()),
            (BreakerState::Open { until: at_second(9000) }, Some(at_second(1010)))
        );
        breaker.try_early_probe(at_second(1009));
        assert_eq!(breaker.state(), BreakerState::Open { until: at_second(9000) });
        breaker.try_early_probe(at_second(1010));
        assert_eq!((breaker.state(), breaker.early_probe_at()), (BreakerState::HalfOpen, None));
        assert!(
            !breaker.record_suspected(at_second(1010), test_id(3), Possible, at_second(9000), "no"),
            "it was not closed"
        );
        assert_eq!(breaker.early_probe_at(), Some(at_second(1030)));
        breaker.try_early_probe(at_second(1030));
        breaker.record_accepted();
        assert!(
            breaker.record_success(at_second(1030))
                && breaker.is_refuted(test_id(1))
                && !breaker.is_refuted(test_id(4))
        );
        assert!(breaker.record_suspected(at_second(1031), test_id(4), Likely, at_second(9000), "no"));
        assert_eq!(breaker.early_probe_at(), Some(at_second(1041)));
        assert!(!breaker.open_until(at_second(1031), at_second(8000), "certain"));
        assert!(
            !breaker.record_suspected(at_second(1032), test_id(5), Likely, at_second(9000), "no"),
            "it is certain"
        );
        assert_eq!(
            (breaker.state(), breaker.early_probe_at()),
            (BreakerState::Open { until: at_second(8000) }, None)
        );
    }

    #[test]
    fn forced_open_ignores_results_until_closed() {
        let mut breaker = CircuitBreaker::new(BreakerSettings::default());
        breaker.force_open("moving house");
        breaker.try_half_open(at_second(99));
        assert!(!breaker.record_success(at_second(99)) && !breaker.record_failure(at_second(99), "no"));
        assert!(!breaker.open_until(at_second(99), at_second(100), "no"));
        assert_eq!((breaker.state(), breaker.reason()), (BreakerState::ForcedOpen, "moving house"));
        breaker.close(at_second(99));
        assert_eq!(breaker.state(), BreakerState::Closed);
    }
}
