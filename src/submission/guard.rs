//! Against guessing of passwords: failures are counted, slow down, and lock an address out.
//!
//! A password that was refused already tells a guesser nothing when it is refused again, so it counts once. A client
//! with one wrong password in its settings, however often it comes, therefore never locks itself out, nor those who
//! share its address.

use super::settings::Policy;
use crate::strangers::{Fades, Origin, Register};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Counts failed logins, by address and by user name. A user name only slows down: locking it would shut out the
/// user itself.
#[derive(Debug)]
pub struct Guard {
    failures: u32,
    window: Duration,
    lockout: Duration,
    tallies: Arc<Mutex<Tallies>>,
}

/// What stands for a text that is not to be kept.
pub type Digest = [u8; 32];

/// What a failed login brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Consequence {
    /// How long the refusal waits.
    pub pause: Duration,
    /// Failures of the address so far, if this one locked it out.
    pub locked_out: Option<u32>,
}

#[derive(Debug, Default)]
struct Tallies {
    origins: Register<Origin, Tally>,
    users: Register<Digest, Tally>,
}

/// The failures of one window of time.
#[derive(Debug)]
struct Tally {
    count: u32,
    ends: Instant,
    locked: bool,
    recent: [Option<Digest>; RECENT],
}

impl Guard {
    /// With what the operator decided.
    pub fn new(policy: &Policy) -> Self {
        Self {
            failures: policy.login_failures,
            window: policy.login_window,
            lockout: policy.login_lockout,
            tallies: Arc::default(),
        }
    }

    /// With what the operator decided since; both remember the same failures.
    pub fn renewed(&self, policy: &Policy) -> Self {
        Self { tallies: self.tallies.clone(), ..Self::new(policy) }
    }

    /// Whether nobody may log in from there now.
    pub fn is_locked_out(&self, peer: IpAddr, now: Instant) -> bool {
        let tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        tallies.origins.recall(&peer.into()).is_some_and(|tally| tally.locked && now < tally.ends)
    }

    /// A login failed; `attempt` stands for user name and password.
    pub fn failed(&self, peer: IpAddr, user: Digest, attempt: Digest, now: Instant) -> Consequence {
        let mut tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Tally::new(now + self.window);
        let by_user = tallies.users.entry(user, now, new);
        by_user.add(attempt, now, self.window);
        let pause = by_user.pause();
        let by_origin = tallies.origins.entry(peer.into(), now, new);
        by_origin.add(attempt, now, self.window);
        let pause = pause.max(by_origin.pause());
        let falls = self.failures > 0 && by_origin.count >= self.failures && !by_origin.locked;
        if falls {
            by_origin.locked = true;
            by_origin.ends = now + self.lockout;
        }
        Consequence { pause, locked_out: falls.then_some(by_origin.count) }
    }

    /// A login succeeded: what was before is forgiven.
    pub fn succeeded(&self, peer: IpAddr, user: Digest) {
        let mut tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        tallies.origins.forget(&peer.into());
        tallies.users.forget(&user);
    }
}

impl Tally {
    fn new(ends: Instant) -> Self {
        Self { count: 0, ends, locked: false, recent: [None; RECENT] }
    }

    fn add(&mut self, attempt: Digest, now: Instant, window: Duration) {
        if now >= self.ends {
            *self = Self::new(now + window);
        }
        if !self.recent.contains(&Some(attempt)) {
            self.recent.rotate_right(1);
            self.recent[0] = Some(attempt);
            self.count = self.count.saturating_add(1);
        }
    }

    /// Doubles with each failure.
    fn pause(&self) -> Duration {
        let doubled = 1u32 << self.count.saturating_sub(1).min(DOUBLINGS);
        (FIRST_PAUSE * doubled).min(LONGEST_PAUSE)
    }
}

impl Fades for Tally {
    fn fades(&self) -> Instant {
        self.ends
    }
}

/// Refused passwords that are known again.
const RECENT: usize = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Short of every client's patience, and of the time that we take to stop.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const DOUBLINGS: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(failures: u32) -> Guard {
        let (window, lockout) = (Duration::from_secs(600), Duration::from_secs(60));
        Guard::new(&Policy {
            login_failures: failures,
            login_window: window,
            login_lockout: lockout,
            ..Policy::default()
        })
    }

    fn peer(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    /// The password with that number, tried for a user.
    fn guess(guard: &Guard, from: u8, user: u8, password: u8, now: Instant) -> Consequence {
        guard.failed(peer(from), [user; 32], [password; 32], now)
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        let (guard, now) = (guard(0), Instant::now());
        let pauses = (0..8).map(|password| guess(&guard, 1, 1, password, now).pause.as_millis());
        assert_eq!(pauses.collect::<Vec<_>>(), [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        for password in 8..255 {
            assert_eq!(guess(&guard, 1, 1, password, now).pause, LONGEST_PAUSE);
        }
        assert!(!guard.is_locked_out(peer(1), now));
    }

    #[test]
    fn so_many_failures_lock_an_address_out_for_a_while() {
        let (guard, now) = (guard(3), Instant::now());
        assert_eq!(guess(&guard, 1, 1, 1, now).locked_out, None);
        assert_eq!(guess(&guard, 1, 2, 2, now).locked_out, None);
        assert!(!guard.is_locked_out(peer(1), now));
        assert_eq!(guess(&guard, 1, 3, 3, now).locked_out, Some(3));
        assert_eq!(guess(&guard, 1, 3, 4, now).locked_out, None, "one lockout is said once");
        assert!(guard.is_locked_out(peer(1), now) && !guard.is_locked_out(peer(2), now));
        let later = now + Duration::from_secs(60);
        assert!(!guard.is_locked_out(peer(1), later));
        assert_eq!(guess(&guard, 1, 3, 5, later), Consequence { pause: FIRST_PAUSE * 4, locked_out: None });
        guess(&guard, 1, 3, 6, later);
        assert_eq!(guess(&guard, 1, 3, 7, later).locked_out, Some(3), "from anew, after the first lockout");
    }

    #[test]
    fn a_client_with_one_wrong_password_goes_on() {
        let (guard, now) = (guard(3), Instant::now());
        for second in 0..1000 {
            let now = now + Duration::from_secs(second);
            assert_eq!(guess(&guard, 1, 1, 1, now), Consequence { pause: FIRST_PAUSE, locked_out: None });
            assert!(!guard.is_locked_out(peer(1), now));
        }
    }

    #[test]
    fn failures_of_a_window_count_and_a_success_forgives() {
        let (guard, now) = (guard(3), Instant::now());
        guess(&guard, 1, 1, 1, now);
        guess(&guard, 1, 1, 2, now);
        let later = now + Duration::from_secs(600);
        assert_eq!(guess(&guard, 1, 1, 3, later).pause, FIRST_PAUSE);
        guess(&guard, 1, 1, 4, later);
        guard.succeeded(peer(1), [1; 32]);
        assert_eq!(guess(&guard, 1, 1, 5, later), Consequence { pause: FIRST_PAUSE, locked_out: None });
    }

    #[test]
    fn a_user_guessed_from_many_addresses_is_slow_and_not_locked() {
        let (guard, now) = (guard(3), Instant::now());
        let pauses: Vec<_> = (0..7).map(|from| guess(&guard, from, 1, from, now)).collect();
        assert_eq!(pauses.last().copied(), Some(Consequence { pause: LONGEST_PAUSE, locked_out: None }));
        assert_eq!(guess(&guard, 9, 2, 1, now).pause, FIRST_PAUSE);
    }

    #[test]
    fn another_policy_remembers_the_same_failures() {
        let (strict, now) = (guard(3), Instant::now());
        guess(&strict, 1, 1, 1, now);
        let lenient = strict.renewed(&Policy { login_failures: 4, ..Policy::default() });
        guess(&lenient, 1, 2, 2, now);
        assert_eq!(guess(&lenient, 1, 3, 3, now).locked_out, None);
        assert_eq!(guess(&lenient, 1, 4, 4, now).locked_out, Some(4));
        assert!(strict.is_locked_out(peer(1), now));
    }
}
