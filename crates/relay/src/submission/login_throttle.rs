//! Against guessing of passwords: failures are counted, slow down, and lock out.
//!
//! A password that was refused already tells a guesser nothing when it is refused again, so it counts once. A client
//! with one wrong password in its settings, however often it comes, therefore never locks itself out, nor those who
//! share its address.

use crate::submission::settings::Policy;
use mailtrail_net::{Fades, Origin, Register};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Counts failed logins. A user name is locked for an address, so that others at that address are still served: they may
/// stand behind one gateway. A user that logged in rightly from an address within [`TRUSTED`] is never locked there, not
/// after a restart either: the store knows whose mail it took from where. An
/// address with too many failures is locked for unknown names only, whose passwords cost time and are wrong anyhow. A name
/// at all addresses only slows down: locking it would shut out the user itself.
#[derive(Debug)]
pub struct Guard {
    failures: u32,
    window: Duration,
    lockout: Duration,
    tallies: Arc<Mutex<Tallies>>,
}

/// What stands for a text that is not to be kept.
pub type Digest = [u8; 32];

/// Who logs in from where.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// The client's address.
    pub peer: IpAddr,
    /// The user name.
    pub user: Digest,
    /// Whether there is such a user.
    pub is_known: bool,
}

/// Whether a password is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is.
    Checked,
    /// It is, but guesses are under way: one that was right before is recognised, others should cost little.
    Contested,
    /// It is refused unseen.
    Refused,
}

/// What a failed login brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Consequence {
    /// How long the refusal waits.
    pub pause: Duration,
    /// Whether the address is over its limit: the client is to come again later.
    pub is_locked: bool,
    /// Failures so far, if this one was the first over the limit.
    pub fell: Option<u32>,
    /// Whether a user logged in rightly from the address within [`TRUSTED`].
    pub is_trusted: bool,
}

#[derive(Debug, Default)]
struct Tallies {
    origins: Register<Origin, Tally>,
    /// Of known users only: others have no password that could be guessed.
    pairs: Register<(Origin, Digest), Tally>,
    users: Register<Digest, Tally>,
    trusted: Register<Origin, Trust>,
    trusted_pairs: Register<(Origin, Digest), Trust>,
}

/// The failures of one window of time.
#[derive(Debug)]
struct Tally {
    count: u32,
    ends: Instant,
    locked: bool,
    recent: [Option<Digest>; RECENT],
}

/// A right login; when it is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Trust(Instant);

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

    /// With what the operator decided since; both remember the same logins.
    pub fn renewed(&self, policy: &Policy) -> Self {
        Self { tallies: self.tallies.clone(), ..Self::new(policy) }
    }

    /// Whether a password is checked now.
    pub fn admission(&self, claim: Claim, now: Instant) -> Admission {
        let tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        let Claim { peer, user, is_known } = claim;
        let (origin, pair) = (Origin::from(peer), (Origin::from(peer), user));
        let tally = if is_known { tallies.pairs.recall(&pair) } else { tallies.origins.recall(&origin) };
        if !tally.is_some_and(|tally| tally.locked && now < tally.ends) {
            Admission::Checked
        } else if is_known && tallies.trusted_pairs.recall(&pair).is_some_and(|trust| now < trust.0) {
            Admission::Contested
        } else {
            Admission::Refused
        }
    }

    /// A login failed; `attempt` stands for user name and password.
    pub fn failed(&self, claim: Claim, attempt: Digest, now: Instant) -> Consequence {
        let mut tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        let Tallies { origins, pairs, users, trusted, trusted_pairs: _ } = &mut *tallies;
        let origin = Origin::from(claim.peer);
        let new = || Tally::new(now + self.window);
        let by_user = users.entry(claim.user, now, new);
        by_user.add(attempt, now, self.window);
        let by_origin = origins.entry(origin, now, new);
        by_origin.add(attempt, now, self.window);
        let pause = by_user.pause().max(by_origin.pause());
        let mut fell = self.lock(by_origin, now);
        if claim.is_known {
            let by_pair = pairs.entry((origin, claim.user), now, new);
            by_pair.add(attempt, now, self.window);
            if let Some(failures) = self.lock(by_pair, now) {
                fell = Some(failures);
                // What is answered shows only that the address is over its limit, not which names there are.
                by_origin.lock_until(by_pair.ends);
            }
        }
        let is_trusted = trusted.recall(&origin).is_some_and(|trust| now < trust.0);
        Consequence { pause, is_locked: by_origin.locked, fell, is_trusted }
    }

    /// Locks what is over the limit for the first time; returns its failures then.
    fn lock(&self, tally: &mut Tally, now: Instant) -> Option<u32> {
        let falls = self.failures > 0 && tally.count >= self.failures && !tally.locked;
        if falls {
            tally.lock_until(now + self.lockout);
        }
        falls.then_some(tally.count)
    }

    /// A login succeeded. The address keeps its failures: they may be another client's.
    pub fn succeeded(&self, peer: IpAddr, user: Digest, now: Instant) {
        let mut tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        tallies.users.forget(&user);
        tallies.trust(peer, user, now, Trust(now + TRUSTED));
    }

    /// A login succeeded that long ago, in the process before this one.
    pub fn succeeded_before(&self, peer: IpAddr, user: Digest, ago: Duration, now: Instant) {
        let mut tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        tallies.trust(peer, user, now, Trust(now + TRUSTED.saturating_sub(ago)));
    }
}

impl Tallies {
    fn trust(&mut self, peer: IpAddr, user: Digest, now: Instant, trust: Trust) {
        let origin = Origin::from(peer);
        let known = self.trusted.entry(origin, now, || trust);
        *known = trust.max(*known);
        let known = self.trusted_pairs.entry((origin, user), now, || trust);
        *known = trust.max(*known);
    }
}

impl Fades for Trust {
    fn fades(&self) -> Instant {
        self.0
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

    fn lock_until(&mut self, ends: Instant) {
        self.ends = if self.locked { self.ends.max(ends) } else { ends };
        self.locked = true;
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

/// How long a right login counts: the time between two mails of a client that seldom sends.
pub const TRUSTED: Duration = Duration::from_secs(24 * 3600);
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

    /// That user; those from 100 on are unknown.
    fn claim(from: u8, user: u8) -> Claim {
        Claim { peer: [192, 0, 2, from].into(), user: [user; 32], is_known: user < 100 }
    }

    /// The password with that number, tried for a user.
    fn guess(guard: &Guard, from: u8, user: u8, password: u8, now: Instant) -> Consequence {
        guard.failed(claim(from, user), [password; 32], now)
    }

    fn admissions(guard: &Guard, from: u8, now: Instant) -> [Admission; 3] {
        [1, 2, 100].map(|user| guard.admission(claim(from, user), now))
    }

    const LATER: Duration = Duration::from_secs(60);

    #[test]
    fn pauses_grow_to_a_bound() {
        let (guard, now) = (guard(0), Instant::now());
        let pauses = (0..8).map(|password| guess(&guard, 1, 1, password, now).pause.as_millis());
        assert_eq!(pauses.collect::<Vec<_>>(), [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        for password in 8..255 {
            let consequence = guess(&guard, 1, 1, password, now);
            assert_eq!((consequence.pause, consequence.is_locked), (LONGEST_PAUSE, false));
        }
        assert_eq!(admissions(&guard, 1, now), [Admission::Checked; 3]);
    }

    #[test]
    fn a_guessed_user_is_locked_for_one_address_and_the_others_there_are_not() {
        let (guard, now) = (guard(3), Instant::now());
        for password in 1..=2 {
            let consequence = guess(&guard, 1, 1, password, now);
            assert_eq!((consequence.fell, consequence.is_locked), (None, false));
        }
        assert_eq!(admissions(&guard, 1, now), [Admission::Checked; 3]);
        let consequence = guess(&guard, 1, 1, 3, now);
        assert_eq!((consequence.fell, consequence.is_locked, consequence.is_trusted), (Some(3), true, false));
        assert_eq!(guess(&guard, 1, 1, 4, now).fell, None, "one lockout is said once");
        assert_eq!(admissions(&guard, 1, now), [Admission::Refused, Admission::Checked, Admission::Refused]);
        assert_eq!(admissions(&guard, 2, now), [Admission::Checked; 3]);
        assert_eq!(admissions(&guard, 1, now + LATER), [Admission::Checked; 3]);
        let later = now + Duration::from_secs(600);
        assert_eq!(guess(&guard, 1, 1, 5, later).pause, FIRST_PAUSE, "from anew, after the lockout");
        guess(&guard, 1, 1, 6, later);
        assert_eq!(guess(&guard, 1, 1, 7, later).fell, Some(3));
    }

    #[test]
    fn many_names_lock_unknown_names_only_and_the_answers_do_not_tell_which_these_are() {
        let (guard, now) = (guard(3), Instant::now());
        let fell: Vec<_> = (0..3).map(|name| guess(&guard, 1, 200 + name, 1 + name, now).fell).collect();
        assert_eq!(fell, [None, None, Some(3)]);
        assert_eq!(admissions(&guard, 1, now), [Admission::Checked, Admission::Checked, Admission::Refused]);
        for user in [1, 100] {
            assert!(guess(&guard, 1, user, 50, now).is_locked, "{user}");
        }
    }

    #[test]
    fn a_user_with_a_right_login_within_a_day_is_not_locked_there() {
        let (guard, now) = (guard(3), Instant::now());
        guard.succeeded(claim(1, 1).peer, [1; 32], now);
        let consequences: Vec<_> = (1..=3).map(|password| guess(&guard, 1, 1, password, now)).collect();
        assert!(consequences[2].is_locked && consequences[2].is_trusted);
        assert_eq!(guard.admission(claim(1, 1), now), Admission::Contested);
        assert_eq!(guard.admission(claim(1, 100), now), Admission::Refused);
        for password in 4..7 {
            guess(&guard, 2, 1, password, now);
        }
        assert_eq!(guard.admission(claim(2, 1), now), Admission::Refused, "elsewhere it is");
        // Guesses go on for a day in which the user sends nothing more.
        let later = now + TRUSTED;
        let [.., last] = [10, 11, 12].map(|password| guess(&guard, 1, 1, password, later));
        assert!(last.is_locked && !last.is_trusted);
        assert_eq!(guard.admission(claim(1, 1), later), Admission::Refused);
    }

    #[test]
    fn right_logins_do_not_hide_wrong_ones() {
        let (guard, now) = (guard(3), Instant::now());
        for name in 0..3 {
            guess(&guard, 1, 200 + name, name, now);
            guard.succeeded(claim(1, 1).peer, [1; 32], now);
        }
        assert_eq!(guard.admission(claim(1, 100), now), Admission::Refused, "a flood costs no hashes");
    }

    #[test]
    fn a_client_with_one_wrong_password_goes_on() {
        let (guard, now) = (guard(3), Instant::now());
        for second in 0..1000 {
            let now = now + Duration::from_secs(second);
            let consequence = guess(&guard, 1, 1, 1, now);
            assert_eq!((consequence.pause, consequence.is_locked), (FIRST_PAUSE, false));
            assert_eq!(admissions(&guard, 1, now), [Admission::Checked; 3]);
        }
    }

    #[test]
    fn failures_of_a_window_count() {
        let (guard, now) = (guard(3), Instant::now());
        guess(&guard, 1, 1, 1, now);
        guess(&guard, 1, 1, 2, now);
        let later = now + Duration::from_secs(600);
        assert_eq!(guess(&guard, 1, 1, 3, later).pause, FIRST_PAUSE);
    }

    #[test]
    fn a_user_guessed_from_many_addresses_is_slow_and_not_locked() {
        let (guard, now) = (guard(3), Instant::now());
        let [.., last] = [0, 1, 2, 3, 4, 5, 6].map(|from| guess(&guard, from, 1, from, now));
        assert!(last.pause == LONGEST_PAUSE && !last.is_locked);
        assert_eq!(guess(&guard, 9, 2, 1, now).pause, FIRST_PAUSE);
    }

    #[test]
    fn one_network_of_ipv6_counts_as_one() {
        let (guard, now) = (guard(3), Instant::now());
        let claim = |last: &str| Claim { peer: format!("2001:db8::{last}").parse().unwrap(), ..claim(1, 1) };
        guard.succeeded(claim("1").peer, [2; 32], now);
        for password in 1..=3 {
            guard.failed(claim(&password.to_string()), [password; 32], now);
        }
        assert_eq!(guard.admission(claim("9"), now), Admission::Refused);
        assert_eq!(guard.admission(Claim { user: [2; 32], ..claim("9") }, now), Admission::Checked);
    }

    #[test]
    fn another_policy_remembers_the_same_failures() {
        let (strict, now) = (guard(3), Instant::now());
        guess(&strict, 1, 1, 1, now);
        let lenient = strict.renewed(&Policy { login_failures: 4, ..Policy::default() });
        guess(&lenient, 1, 1, 2, now);
        assert_eq!(guess(&lenient, 1, 1, 3, now).fell, None);
        assert_eq!(guess(&lenient, 1, 1, 4, now).fell, Some(4));
        assert_eq!(strict.admission(claim(1, 1), now), Admission::Refused);
    }
}
