//! Leaves an upstream alone that cannot take mail, and finds out gently when it can again.

use crate::clock::Timestamp;
use std::time::Duration;

/// When an upstream is left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Failures in a row that open the breaker. Default 5, 1 to 1000.
    pub failures: u32,
    /// The first pause before a probe. Default 10 s, 100 ms to 1 h; doubles with every failed probe.
    pub pause: Duration,
    /// The longest pause. Default 5 min, 1 s to 1 day.
    pub longest_pause: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { failures: 5, pause: Duration::from_secs(10), longest_pause: Duration::from_secs(300) }
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
    /// One probe, which is under way.
    HalfOpen,
}

impl State {
    /// The word for tables and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open { .. } => "open",
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
    pause: Duration,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(settings: Settings) -> Self {
        let pause = settings.pause;
        Self { settings, state: State::Closed, failures: 0, pause }
    }

    /// The state now.
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether an attempt may start; a probe that may start is under way from then on. The caller lets one probe
    /// through at a time, and another when that ended without finding out: its message was at fault, or lost.
    pub fn admit(&mut self, now: Timestamp) -> bool {
        match self.state {
            State::Closed | State::HalfOpen => true,
            State::Open { until } if now >= until => {
                self.state = State::HalfOpen;
                true
            }
            State::Open { .. } => false,
        }
    }

    /// The upstream works: it decided about a message. True when that closed the breaker; only a probe does, not an
    /// answer on a connection from before it opened.
    pub fn succeeded(&mut self) -> bool {
        if matches!(self.state, State::Open { .. }) {
            return false;
        }
        let was_open = self.state != State::Closed;
        self.state = State::Closed;
        self.failures = 0;
        self.pause = self.settings.pause;
        was_open
    }

    /// The upstream does not work. True when that opened the breaker.
    pub fn failed(&mut self, now: Timestamp) -> bool {
        self.failures = self.failures.saturating_add(1);
        match self.state {
            State::Closed if self.failures < self.settings.failures => false,
            State::Closed => {
                self.state = State::Open { until: now.after(self.pause) };
                true
            }
            State::HalfOpen => {
                self.pause = (self.pause * 2).min(self.settings.longest_pause);
                self.state = State::Open { until: now.after(self.pause) };
                false
            }
            // Attempts that were under way when it opened.
            State::Open { .. } => false,
        }
    }

    /// The upstream said that it takes nothing before `until`; believed for a day at most.
    pub fn pause_until(&mut self, now: Timestamp, until: Timestamp) -> bool {
        let was_closed = self.state == State::Closed;
        self.state = State::Open { until: until.min(now.after(LONGEST_BELIEVED)) };
        was_closed
    }
}

const LONGEST_BELIEVED: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    #[test]
    fn opens_probes_and_closes() {
        let mut breaker = Breaker::new(Settings::default());
        for _ in 0..4 {
            assert!(breaker.admit(at(0)) && !breaker.failed(at(0)));
        }
        assert!(breaker.failed(at(0)) && !breaker.failed(at(0)));
        assert!(!breaker.admit(at(9)));
        assert!(breaker.admit(at(10)) && breaker.state() == State::HalfOpen && breaker.admit(at(10)));
        assert!(!breaker.failed(at(10)));
        assert_eq!(breaker.state(), State::Open { until: at(30) });
        assert!(breaker.admit(at(30)) && breaker.succeeded());
        assert_eq!(breaker.state(), State::Closed);
    }

    #[test]
    fn the_pause_doubles_up_to_its_bound() {
        let mut breaker = Breaker::new(Settings::default());
        let mut now = at(0);
        for _ in 0..20 {
            breaker.failed(now);
            if let State::Open { until } = breaker.state() {
                assert!(until <= now.after(Duration::from_secs(300)));
                now = until;
                assert!(breaker.admit(now));
            }
        }
        assert!(breaker.failures > 5);
    }
}
