//! Notices when the clock is set: wall-clock time and time that has passed go on alike otherwise.

use crate::clock::{Clock, Timestamp};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What is known of a clock being set. Copies know the same.
#[derive(Clone, Debug)]
pub struct ClockWatch {
    clock: Clock,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug)]
struct Seen {
    now: Timestamp,
    passed: Duration,
    /// The last step, and the time passed at which it is over.
    last: Option<(ClockStep, Duration)>,
    /// Steps so far, and by how many milliseconds they have set the clock back or forward in all.
    steps: u64,
    moved: i64,
}

/// By how much a clock was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockStep {
    /// It was set ahead.
    Ahead(Duration),
    /// It was set back.
    Back(Duration),
    /// What is stored was stored that long ahead of it.
    Stored(Duration),
    /// What is stored last is that old: the relay was off, or the clock was set ahead meanwhile.
    Old(Duration),
    /// The same, and so old that the clock is likelier ahead.
    VeryOld(Duration),
}

impl ClockWatch {
    /// Begins to look at a clock.
    pub fn new(clock: Clock) -> Self {
        let (now, passed) = (clock.now(), clock.monotonic());
        Self { clock, seen: Arc::new(Mutex::new(Seen { now, passed, last: None, steps: 0, moved: 0 })) }
    }

    /// Looks at the clock. The step since which nothing is to expire or to be forgotten for a while, if there is one.
    pub fn look(&self) -> Option<ClockStep> {
        self.look_at(|seen| seen.last.map(|(step, _)| step))
    }

    /// Whether ages can be relied on: the clock was not set lately.
    pub fn is_steady(&self) -> bool {
        self.look().is_none()
    }

    /// How often the clock was set so far, and by how many milliseconds in all; it is looked at.
    pub fn steps(&self) -> (u64, i64) {
        self.look_at(|seen| (seen.steps, seen.moved))
    }

    /// Compares the clock with the newest time that is stored, at a start.
    pub fn compare_stored(&self, newest: Timestamp) {
        let now = self.clock.now();
        let (ahead, age) = (newest.duration_since(now), now.duration_since(newest));
        let (step, settling) = if ahead > LARGEST_SLIP {
            (ClockStep::Stored(ahead), SETTLING)
        } else if age > VERY_OLD {
            (ClockStep::VeryOld(age), LONG_SETTLING)
        } else if age > OLD {
            (ClockStep::Old(age), SETTLING)
        } else {
            return;
        };
        self.look_at(|seen| seen.last = Some((step, self.clock.monotonic() + settling)));
    }

    fn look_at<T>(&self, found: impl FnOnce(&mut Seen) -> T) -> T {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, passed) = (self.clock.now(), self.clock.monotonic());
        let expected = seen.now.saturating_add(passed.saturating_sub(seen.passed));
        let (ahead, back) = (now.duration_since(expected), expected.duration_since(now));
        let step = if ahead > LARGEST_SLIP {
            Some(ClockStep::Ahead(ahead))
        } else {
            (back > LARGEST_SLIP).then_some(ClockStep::Back(back))
        };
        (seen.now, seen.passed) = (now, passed);
        if let Some(step) = step {
            seen.steps += 1;
            seen.moved = seen.moved.saturating_add_unsigned(ahead.as_millis() as u64);
            seen.moved = seen.moved.saturating_sub_unsigned(back.as_millis() as u64);
            seen.last = Some((step, passed + SETTLING));
        }
        seen.last = seen.last.filter(|(_, until)| passed < *until);
        found(&mut seen)
    }
}

/// By how much clock and passed time may differ from one look to the next: NTP moves a clock slowly, or sets it.
const LARGEST_SLIP: Duration = Duration::from_secs(10);
/// How long nothing expires and nothing is forgotten after the clock was set: it may be set right in that time.
const SETTLING: Duration = Duration::from_secs(300);
/// The same after a start that found [`ClockStep::VeryOld`]: NTP corrects the clock once the network is up.
const LONG_SETTLING: Duration = Duration::from_secs(3600);
/// Age of what is stored last from which on a start is like a step.
const OLD: Duration = Duration::from_secs(86_400);
/// Age of what is stored last from which on the clock is likelier wrong: with the usual retention a relay that was on
/// has forgotten it.
const VERY_OLD: Duration = Duration::from_secs(31 * 86_400);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    const DAYS: Duration = Duration::from_secs(3 * 86_400);
    const START: Timestamp = Timestamp::from_secs(1_789_387_200);

    #[test]
    fn a_step_is_seen_in_both_directions_and_is_over_after_a_while() {
        let moment: &ManualClock = Box::leak(Box::default());
        moment.advance_to(START);
        let watch = ClockWatch::new(Clock::Manual(moment));
        moment.advance_to(START.saturating_add(DAYS));
        assert_eq!((watch.look(), watch.steps()), (None, (0, 0)), "time has passed");
        moment.set_wall_clock(START.saturating_add(DAYS * 2));
        assert_eq!(watch.look(), Some(ClockStep::Ahead(DAYS)));
        moment.set_wall_clock(START);
        assert_eq!(watch.look(), Some(ClockStep::Back(DAYS * 2)));
        let moved = -i64::try_from(DAYS.as_millis()).unwrap();
        assert_eq!(watch.steps(), (2, moved));
        moment.advance_to(START.saturating_add(SETTLING - Duration::from_secs(1)));
        assert!(!watch.is_steady());
        moment.advance_to(START.saturating_add(SETTLING));
        assert!(watch.is_steady());
        moment.set_wall_clock(START.saturating_add(SETTLING + LARGEST_SLIP));
        assert!(watch.is_steady(), "it was set a little");
    }

    #[test]
    fn what_is_stored_tells_of_a_step_before_the_start() {
        for (newest, expected, settling) in [
            (START, None, Duration::ZERO),
            (START.saturating_sub(DAYS / 4), None, Duration::ZERO),
            (START.saturating_add(DAYS), Some(ClockStep::Stored(DAYS)), SETTLING),
            (START.saturating_sub(DAYS), Some(ClockStep::Old(DAYS)), SETTLING),
            (START.saturating_sub(DAYS * 365), Some(ClockStep::VeryOld(DAYS * 365)), LONG_SETTLING),
        ] {
            let moment: &ManualClock = Box::leak(Box::default());
            moment.advance_to(START);
            let watch = ClockWatch::new(Clock::Manual(moment));
            watch.compare_stored(newest);
            assert_eq!(watch.look(), expected);
            moment.advance_to(START.saturating_add(settling.saturating_sub(Duration::from_secs(1))));
            assert_eq!(watch.look(), expected);
            moment.advance_to(START.saturating_add(settling));
            assert!(watch.is_steady());
        }
    }

    #[test]
    fn the_machine_s_clock_goes_on_like_its_time() {
        let watch = ClockWatch::new(Clock::System);
        assert!(Clock::System.monotonic() > Duration::ZERO && watch.is_steady());
    }
}
