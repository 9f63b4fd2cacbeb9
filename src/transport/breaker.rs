//! Leaves an upstream alone that cannot take mail, and finds out gently when it can again.

use crate::clock::Timestamp;
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

/// Counts an upstream's own failures. What is wrong with one message never counts.
#[derive(Debug)]
pub struct Breaker {
    settings: Settings,
    state: State,
    failures: u32,
    successes: u32,
    pause: Duration,
    closed_at: Timestamp,
    reason: String,
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
            (self.state, self.successes) = (State::HalfOpen, 0);
        }
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
        reason.clone_into(&mut self.reason);
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
        reason.clone_into(&mut self.reason);
        opened
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
