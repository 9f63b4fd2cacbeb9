//! Notices when the clock is set: wall-clock time and time that has passed go on alike otherwise.

use crate::clock::{Clock, Timestamp};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Detector of clock steps. Clones share its state.
#[derive(Clone, Debug)]
pub struct ClockWatch {
    clock: Clock,
    state: Arc<Mutex<WatchState>>,
}

#[derive(Debug)]
struct WatchState {
    last_wall_clock: Timestamp,
    last_monotonic: Duration,
    /// The last step, and the time passed at which it is over.
    last_step: Option<(ClockStep, Duration)>,
    /// Steps so far, and by how many milliseconds they have set the clock back or forward in all.
    step_count: u64,
    total_shift_ms: i64,
}

/// By how much a clock was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockStep {
    /// It was set ahead.
    Forward(Duration),
    /// It was set back.
    Backward(Duration),
    /// Stored times are ahead of the clock by this duration.
    StoredAhead(Duration),
    /// The latest stored time is this old: the relay was off, or the clock was set ahead in the meantime.
    StoredTooOld(Duration),
    /// The latest stored time is so old that the clock is more likely ahead.
    VeryOld(Duration),
}

impl ClockWatch {
    /// Starts watching a clock.
    pub fn new(clock: Clock) -> Self {
        let (last_wall_clock, last_monotonic) = (clock.now(), clock.monotonic());
        Self {
            clock,
            state: Arc::new(Mutex::new(WatchState {
                last_wall_clock,
                last_monotonic,
                last_step: None,
                step_count: 0,
                total_shift_ms: 0,
            })),
        }
    }

    /// Checks the clock. Returns a recent step, after which nothing may expire or be deleted for a while.
    pub fn recent_step(&self) -> Option<ClockStep> {
        self.update_with(|seen| seen.last_step.map(|(step, _)| step))
    }

    /// Whether ages can be relied on: the clock was not set lately.
    pub fn is_steady(&self) -> bool {
        self.recent_step().is_none()
    }

    /// Checks the clock. Returns the number of steps so far and their sum in milliseconds.
    pub fn step_totals(&self) -> (u64, i64) {
        self.update_with(|seen| (seen.step_count, seen.total_shift_ms))
    }

    /// Compares the clock with the newest time that is stored, at a start.
    pub fn compare_with_stored(&self, newest: Timestamp) {
        let now = self.clock.now();
        let (ahead, age) = (newest.duration_since(now), now.duration_since(newest));
        let (step, settling) = if ahead > MAX_CLOCK_DRIFT {
            (ClockStep::StoredAhead(ahead), STEP_GRACE_PERIOD)
        } else if age > VERY_OLD {
            (ClockStep::VeryOld(age), LONG_SETTLING)
        } else if age > MAX_STORED_AGE {
            (ClockStep::StoredTooOld(age), STEP_GRACE_PERIOD)
        } else {
            return;
        };
        self.update_with(|seen| seen.last_step = Some((step, self.clock.monotonic() + settling)));
    }

    fn update_with<T>(&self, found: impl FnOnce(&mut WatchState) -> T) -> T {
        let mut seen = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, passed) = (self.clock.now(), self.clock.monotonic());
        let expected = seen.last_wall_clock.saturating_add(passed.saturating_sub(seen.last_monotonic));
        let (ahead, back) = (now.duration_since(expected), expected.duration_since(now));
        let step = if ahead > MAX_CLOCK_DRIFT {
            Some(ClockStep::Forward(ahead))
        } else {
            (back > MAX_CLOCK_DRIFT).then_some(ClockStep::Backward(back))
        };
        (seen.last_wall_clock, seen.last_monotonic) = (now, passed);
        if let Some(step) = step {
            seen.step_count += 1;
            seen.total_shift_ms = seen.total_shift_ms.saturating_add_unsigned(ahead.as_millis() as u64);
            seen.total_shift_ms = seen.total_shift_ms.saturating_sub_unsigned(back.as_millis() as u64);
            seen.last_step = Some((step, passed + STEP_GRACE_PERIOD));
        }
        seen.last_step = seen.last_step.filter(|(_, until)| passed < *until);
        found(&mut seen)
    }
}

/// Tolerated difference between clock and elapsed time per check: NTP slews a clock slowly, or steps it.
const MAX_CLOCK_DRIFT: Duration = Duration::from_secs(10);
/// How long nothing expires and nothing is forgotten after the clock was set: it may be set right in that time.
const STEP_GRACE_PERIOD: Duration = Duration::from_secs(300);
/// Settling time after a start with [`ClockStep::VeryOld`]: NTP corrects the clock once the network is up.
const LONG_SETTLING: Duration = Duration::from_secs(3600);
/// Age of the latest stored time from which on a start counts as a step.
const MAX_STORED_AGE: Duration = Duration::from_secs(86_400);
/// Age of the latest stored time from which on the clock is probably wrong: with the default retention, a running relay
/// has deleted such data.
const VERY_OLD: Duration = Duration::from_secs(31 * 86_400);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    const THREE_DAYS: Duration = Duration::from_secs(3 * 86_400);
    const START_TIME: Timestamp = Timestamp::from_secs(1_789_387_200);

    #[test]
    fn detects_steps_in_both_directions_until_the_grace_period_ends() {
        let moment: &ManualClock = Box::leak(Box::default());
        moment.advance_to(START_TIME);
        let watch = ClockWatch::new(Clock::Manual(moment));
        moment.advance_to(START_TIME.saturating_add(THREE_DAYS));
        assert_eq!((watch.recent_step(), watch.step_totals()), (None, (0, 0)), "time has passed");
        moment.set_wall_clock(START_TIME.saturating_add(THREE_DAYS * 2));
        assert_eq!(watch.recent_step(), Some(ClockStep::Forward(THREE_DAYS)));
        moment.set_wall_clock(START_TIME);
        assert_eq!(watch.recent_step(), Some(ClockStep::Backward(THREE_DAYS * 2)));
        let moved = -i64::try_from(THREE_DAYS.as_millis()).unwrap();
        assert_eq!(watch.step_totals(), (2, moved));
        moment.advance_to(START_TIME.saturating_add(STEP_GRACE_PERIOD - Duration::from_secs(1)));
        assert!(!watch.is_steady());
        moment.advance_to(START_TIME.saturating_add(STEP_GRACE_PERIOD));
        assert!(watch.is_steady());
        moment.set_wall_clock(START_TIME.saturating_add(STEP_GRACE_PERIOD + MAX_CLOCK_DRIFT));
        assert!(watch.is_steady(), "it was set a little");
    }

    #[test]
    fn detects_a_step_before_the_start_from_stored_times() {
        for (newest, expected, settling) in [
            (START_TIME, None, Duration::ZERO),
            (START_TIME.saturating_sub(THREE_DAYS / 4), None, Duration::ZERO),
            (
                START_TIME.saturating_add(THREE_DAYS),
                Some(ClockStep::StoredAhead(THREE_DAYS)),
                STEP_GRACE_PERIOD,
            ),
            (
                START_TIME.saturating_sub(THREE_DAYS),
                Some(ClockStep::StoredTooOld(THREE_DAYS)),
                STEP_GRACE_PERIOD,
            ),
            (
                START_TIME.saturating_sub(THREE_DAYS * 365),
                Some(ClockStep::VeryOld(THREE_DAYS * 365)),
                LONG_SETTLING,
            ),
        ] {
            let moment: &ManualClock = Box::leak(Box::default());
            moment.advance_to(START_TIME);
            let watch = ClockWatch::new(Clock::Manual(moment));
            watch.compare_with_stored(newest);
            assert_eq!(watch.recent_step(), expected);
            moment.advance_to(START_TIME.saturating_add(settling.saturating_sub(Duration::from_secs(1))));
            assert_eq!(watch.recent_step(), expected);
            moment.advance_to(START_TIME.saturating_add(settling));
            assert!(watch.is_steady());
        }
    }

    #[test]
    fn system_clock_follows_monotonic_time() {
        let watch = ClockWatch::new(Clock::System);
        assert!(Clock::System.monotonic() > Duration::ZERO && watch.is_steady());
    }
}
