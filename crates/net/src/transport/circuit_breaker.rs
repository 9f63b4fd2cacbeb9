//! Leaves an upstream alone that cannot take mail, and finds out gently when it can again.

use crate::transport::reply_policy::Certainty;
use crate::transport::suspicion::Suspicion;
use mailtrail_mail::{Timestamp, TrackingId};
use std::time::Duration;

/// When an upstream is left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Failures in a row that open the breaker. Default 5, 1 to 1000.
    pub failures: u32,
    /// Probes in a row that must succeed before it closes. Default 1, 1 to 100.
    pub successes: u32,
    /// The first pause before a probe. Default 10 s, 100 ms to 1 h; doubles with every failed probe, and when it opens
    /// again right after it closed.
    pub pause: Duration,
    /// The longest pause. Default 5 min, 1 s to 1 day.
    pub longest_pause: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            failures: 5,
            successes: 1,
            pause: Duration::from_secs(10),
            longest_pause: Duration::from_secs(300),
        }
    }
}

/// What the breaker lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Everything.
    Closed,
    /// Nothing until then.
    Open {
        /// When a probe may go.
        until: Timestamp,
    },
    /// One probe at a time.
    HalfOpen,
    /// Nothing until an operator closes it.
    Forced,
}

impl State {
    /// The word for tables and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open { .. } | Self::Forced => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// Counts an upstream's own failures. What is wrong with one message holds no other: where a failure may be a message's,
/// those of different messages count.
#[derive(Debug)]
pub struct Breaker {
    settings: Settings,
    state: State,
    failures: u32,
    successes: u32,
    pause: Duration,
    closed_at: Timestamp,
    reason: String,
    /// The message over which a probe's connection broke last.
    broke_over: Option<TrackingId>,
    suspicion: Suspicion,
    /// When a probe may go although it is open: only replies to single messages speak against the upstream.
    check_at: Option<Timestamp>,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(settings: Settings) -> Self {
        let (pause, closed_at) = (settings.pause, Timestamp::default());
        Self {
            settings,
            state: State::Closed,
            failures: 0,
            successes: 0,
            pause,
            closed_at,
            reason: String::new(),
            broke_over: None,
            suspicion: Suspicion::default(),
            check_at: None,
        }
    }

    /// The state now.
    pub fn state(&self) -> State {
        self.state
    }

    /// Why it is not closed.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Lets a probe through when it is time for one. The caller lets one through at a time, and another when that
    /// ended without finding out: its message was at fault, or lost.
    pub fn probe(&mut self, now: Timestamp) {
        if matches!(self.state, State::Open { until } if now >= until) {
            self.half_open();
        }
    }

    /// When a probe may go although it is open, for mail that no other upstream takes.
    pub fn check_at(&self) -> Option<Timestamp> {
        self.check_at.filter(|_| matches!(self.state, State::Open { .. }))
    }

    /// Lets such a probe through.
    pub fn check(&mut self, now: Timestamp) {
        if self.check_at().is_some_and(|at| now >= at) {
            self.half_open();
        }
    }

    fn half_open(&mut self) {
        (self.state, self.successes, self.failures) = (State::HalfOpen, 0, 0);
        (self.broke_over, self.check_at) = (None, None);
    }

    /// The upstream works: it decided about a message. True when that closed the breaker; only probes do, not an
    /// answer on a connection from before it opened.
    pub fn succeeded(&mut self, now: Timestamp) -> bool {
        match self.state {
            State::Open { .. } | State::Forced => false,
            State::Closed => {
                self.failures = 0;
                false
            }
            State::HalfOpen => {
                self.successes += 1;
                let enough = self.successes >= self.settings.successes;
                if enough {
                    self.close(now);
                }
                enough
            }
        }
    }

    /// The upstream took a message.
    pub fn took(&mut self) {
        self.suspicion.refute();
    }

    /// The connection broke over a message, and how. One message may be the cause of any number of that, so at least two
    /// failures count; and probes that failed such leave the way to others until as many different messages failed as
    /// open a closed breaker. True when that opened the breaker.
    pub fn broke_over(&mut self, now: Timestamp, id: TrackingId, reason: &str) -> bool {
        let enough = self.settings.failures.max(2);
        match self.state {
            State::HalfOpen if self.broke_over == Some(id) => return false,
            State::HalfOpen | State::Closed if self.failures + 1 < enough => {
                self.failures += 1;
                self.broke_over = Some(id);
                return false;
            }
            State::HalfOpen | State::Closed | State::Open { .. } | State::Forced => {}
        }
        self.failed(now, reason)
    }

    /// The upstream does not work, and why. True when that opened the breaker.
    pub fn failed(&mut self, now: Timestamp, reason: &str) -> bool {
        self.failures = self.failures.saturating_add(1);
        match self.state {
            State::Closed if self.failures < self.settings.failures => return false,
            State::Closed if now.since(self.closed_at) > self.settings.longest_pause => {
                self.pause = self.settings.pause;
            }
            State::Closed | State::HalfOpen => {
                self.pause = (self.pause * 2).min(self.settings.longest_pause);
            }
            // Attempts that were under way when it opened.
            State::Open { .. } | State::Forced => return false,
        }
        let opened = self.state == State::Closed;
        self.state = State::Open { until: now.after(self.pause) };
        self.check_at = None;
        reason.clone_into(&mut self.reason);
        opened
    }

    /// Whether words about the upstream in the reply to a message are about the message: others were taken since.
    pub fn is_refuted(&self, id: TrackingId) -> bool {
        self.suspicion.is_refuted(id)
    }

    /// The upstream wants less mail by the reply to a message.
    pub fn slowed_by(&mut self, id: TrackingId) {
        self.suspicion.remember(id);
    }

    /// The reply to a message says that the upstream takes nothing before `until`. Another message's reply may refute
    /// that, so one may ask before then, after a pause that doubles with each that confirms it. True when that opened the
    /// breaker.
    pub fn suspected(
        &mut self,
        now: Timestamp,
        id: TrackingId,
        certainty: Certainty,
        until: Timestamp,
        reason: &str,
    ) -> bool {
        let confirmed = self.suspicion.add(id);
        let known = matches!(self.state, State::Open { .. }) && self.check_at.is_none();
        if known || self.state == State::Forced || certainty < Certainty::Likely && !confirmed {
            return false;
        }
        match self.state {
            State::HalfOpen if confirmed => self.pause = (self.pause * 2).min(self.settings.longest_pause),
            State::HalfOpen | State::Open { .. } => {}
            State::Closed | State::Forced => self.pause = self.settings.pause,
        }
        let opened = self.pause_until(now, until, reason);
        self.check_at = Some(now.after(self.pause));
        opened
    }

    /// The upstream said that it takes nothing before `until`; believed for a day at most. True when that opened the
    /// breaker.
    pub fn pause_until(&mut self, now: Timestamp, until: Timestamp, reason: &str) -> bool {
        if self.state == State::Forced {
            return false;
        }
        let opened = self.state == State::Closed;
        self.state = State::Open { until: until.min(now.after(LONGEST_BELIEVED)) };
        self.check_at = None;
        reason.clone_into(&mut self.reason);
        opened
    }

    /// The clock was set back by so much: what was to come then comes as soon as it was to.
    pub fn set_back(&mut self, back: Duration) {
        if let State::Open { until } = &mut self.state {
            *until = until.before(back);
        }
        self.check_at = self.check_at.map(|at| at.before(back));
        self.closed_at = self.closed_at.before(back);
    }

    /// An operator opens it.
    pub fn force_open(&mut self, reason: &str) {
        self.state = State::Forced;
        reason.clone_into(&mut self.reason);
    }

    /// An operator, or enough probes, close it.
    pub fn close(&mut self, now: Timestamp) {
        (self.state, self.closed_at) = (State::Closed, now);
        (self.failures, self.successes) = (0, 0);
        (self.broke_over, self.check_at) = (None, None);
        self.reason.clear();
    }
}

const LONGEST_BELIEVED: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    /// Fails so often that it opens.
    fn open(breaker: &mut Breaker, now: Timestamp) {
        (1..breaker.settings.failures).for_each(|_| assert!(!breaker.failed(now, "no")));
        assert!(breaker.failed(now, "no"));
    }

    #[test]
    fn opens_probes_and_closes() {
        let mut breaker = Breaker::new(Settings { successes: 2, ..Settings::default() });
        open(&mut breaker, at(1000));
        assert!(!breaker.failed(at(1000), "late") && breaker.reason() == "no");
        breaker.probe(at(1009));
        assert_eq!(breaker.state(), State::Open { until: at(1010) });
        breaker.probe(at(1010));
        assert!(breaker.state() == State::HalfOpen && !breaker.succeeded(at(1010)));
        assert!(!breaker.failed(at(1010), "no"), "it was not closed");
        assert_eq!(breaker.state(), State::Open { until: at(1030) });
        breaker.probe(at(1030));
        assert!(!breaker.succeeded(at(1030)) && breaker.succeeded(at(1031)));
        assert_eq!(breaker.state(), State::Closed);
    }

    #[test]
    fn the_pause_doubles_up_to_its_bound_and_is_forgotten_in_peace() {
        let mut breaker = Breaker::new(Settings::default());
        let mut now = at(1000);
        let mut pauses = Vec::new();
        open(&mut breaker, now);
        for round in 0..8 {
            let State::Open { until } = breaker.state() else { panic!("{:?}", breaker.state()) };
            pauses.push(until.since(now).as_secs());
            now = until;
            breaker.probe(now);
            if round % 2 == 0 {
                breaker.failed(now, "no");
            } else {
                // Closed, and open again at once.
                assert!(breaker.succeeded(now));
                open(&mut breaker, now);
            }
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 300, 300, 300]);
        breaker.close(now);
        let later = now.after(Duration::from_secs(301));
        open(&mut breaker, later);
        assert_eq!(breaker.state(), State::Open { until: later.after(Duration::from_secs(10)) });
    }

    fn id(number: u128) -> TrackingId {
        TrackingId::from_bytes(number.to_be_bytes())
    }

    #[test]
    fn one_message_over_which_probes_break_opens_nothing() {
        let mut breaker = Breaker::new(Settings { failures: 3, ..Settings::default() });
        open(&mut breaker, at(1000));
        breaker.probe(at(1010));
        for second in 1010..1020 {
            assert!(!breaker.broke_over(at(second), id(1), "broke"));
            assert_eq!(breaker.state(), State::HalfOpen);
        }
        assert!(!breaker.broke_over(at(1020), id(2), "broke") && breaker.state() == State::HalfOpen);
        assert!(!breaker.broke_over(at(1020), id(1), "broke"), "it was not closed");
        assert_eq!((breaker.state(), breaker.reason()), (State::Open { until: at(1040) }, "broke"));
        breaker.probe(at(1040));
        assert!(!breaker.broke_over(at(1040), id(1), "broke") && breaker.succeeded(at(1040)));
    }

    #[test]
    fn one_failure_over_a_message_never_opens_it() {
        let mut breaker = Breaker::new(Settings { failures: 1, ..Settings::default() });
        assert!(!breaker.broke_over(at(1), id(1), "no"));
        assert!(!breaker.succeeded(at(1)) && !breaker.broke_over(at(1), id(1), "no"));
        assert!(breaker.broke_over(at(2), id(1), "no"));
        let mut breaker = Breaker::new(Settings { failures: 1, ..Settings::default() });
        assert!(breaker.failed(at(1), "no"));
    }

    #[test]
    fn a_reply_to_one_message_is_checked_by_others() {
        use Certainty::{Likely, Possible};
        let mut breaker = Breaker::new(Settings::default());
        assert!(!breaker.suspected(at(1000), id(1), Possible, at(9000), "no"));
        assert_eq!(breaker.state(), State::Closed);
        assert!(breaker.suspected(at(1000), id(2), Possible, at(9000), "no"), "another's");
        assert_eq!((breaker.state(), breaker.check_at()), (State::Open { until: at(9000) }, Some(at(1010))));
        breaker.check(at(1009));
        assert_eq!(breaker.state(), State::Open { until: at(9000) });
        breaker.check(at(1010));
        assert_eq!((breaker.state(), breaker.check_at()), (State::HalfOpen, None));
        assert!(!breaker.suspected(at(1010), id(3), Possible, at(9000), "no"), "it was not closed");
        assert_eq!(breaker.check_at(), Some(at(1030)));
        breaker.check(at(1030));
        breaker.took();
        assert!(breaker.succeeded(at(1030)) && breaker.is_refuted(id(1)) && !breaker.is_refuted(id(4)));
        assert!(breaker.suspected(at(1031), id(4), Likely, at(9000), "no"));
        assert_eq!(breaker.check_at(), Some(at(1041)));
        assert!(!breaker.pause_until(at(1031), at(8000), "certain"));
        assert!(!breaker.suspected(at(1032), id(5), Likely, at(9000), "no"), "it is certain");
        assert_eq!((breaker.state(), breaker.check_at()), (State::Open { until: at(8000) }, None));
    }

    #[test]
    fn what_an_operator_opened_only_an_operator_closes() {
        let mut breaker = Breaker::new(Settings::default());
        breaker.force_open("moving house");
        breaker.probe(at(99));
        assert!(!breaker.succeeded(at(99)) && !breaker.failed(at(99), "no"));
        assert!(!breaker.pause_until(at(99), at(100), "no"));
        assert_eq!((breaker.state(), breaker.reason()), (State::Forced, "moving house"));
        breaker.close(at(99));
        assert_eq!(breaker.state(), State::Closed);
    }
}
