//! Protection against password guessing: failed logins are counted, delayed, and lock the user.
//!
//! Repeating a rejected password tells an attacker nothing, so it counts once. A client with one wrong password in its
//! settings therefore never locks itself or other clients at its address, however often it connects.

use crate::submission::settings::LoginPolicy;
use mailtrail_net::{BoundedMap, ClientNetwork, Expires};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Counts of failed logins. A user is locked per address, because other clients may share the address behind a gateway.
/// A user that logged in from an address within [`TRUST_DURATION`] is never locked there, even after a restart: the store
/// holds the acceptances by user and address. An address with too many failures is locked for unknown names only;
/// checking those is expensive and always fails. For a name over all addresses, logins are only delayed, because a lock
/// would also lock out the user.
#[derive(Debug)]
pub struct LoginThrottle {
    max_failures: u32,
    window: Duration,
    lockout_duration: Duration,
    state: Arc<Mutex<ThrottleState>>,
}

/// Digest in place of a text that must not be stored.
pub type CredentialDigest = [u8; 32];

/// User and address of a login.
#[derive(Clone, Copy, Debug)]
pub struct LoginAttempt {
    /// Address of the client.
    pub peer: IpAddr,
    /// Digest of the user name.
    pub user: CredentialDigest,
    /// Whether there is such a user.
    pub user_exists: bool,
}

/// Whether a password is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginAdmission {
    /// Verify the password.
    Verify,
    /// Verify it against the cache if possible, because guesses are in progress and hashing is expensive.
    PreferCached,
    /// It is refused unseen.
    Reject,
}

/// Consequence of a failed login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginPenalty {
    /// How long the refusal waits.
    pub delay: Duration,
    /// Whether the address is over its limit: the client is to come again later.
    pub is_locked_out: bool,
    /// Failures so far, if this one was the first over the limit.
    pub new_lockout_failures: Option<u32>,
    /// Whether a user logged in from the address within [`TRUST_DURATION`].
    pub is_trusted: bool,
}

#[derive(Debug, Default)]
struct ThrottleState {
    by_network: BoundedMap<ClientNetwork, FailureWindow>,
    /// Known users only; others have no password that could be guessed.
    by_network_and_user: BoundedMap<(ClientNetwork, CredentialDigest), FailureWindow>,
    by_user: BoundedMap<CredentialDigest, FailureWindow>,
    trusted_networks: BoundedMap<ClientNetwork, TrustedLogin>,
    trusted_logins: BoundedMap<(ClientNetwork, CredentialDigest), TrustedLogin>,
}

/// The failures of one window of time.
#[derive(Debug)]
struct FailureWindow {
    failures: u32,
    expires_at: Instant,
    is_locked: bool,
    recent_passwords: [Option<CredentialDigest>; REMEMBERED_PASSWORDS],
}

/// A right login; when it is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct TrustedLogin(Instant);

impl LoginThrottle {
    /// Creates a throttle by the policy.
    pub fn new(policy: &LoginPolicy) -> Self {
        Self {
            max_failures: policy.login_failures,
            window: policy.login_window,
            lockout_duration: policy.login_lockout,
            state: Arc::default(),
        }
    }

    /// Returns a throttle with a changed policy; both share the counts.
    pub fn reconfigured(&self, policy: &LoginPolicy) -> Self {
        Self { state: self.state.clone(), ..Self::new(policy) }
    }

    /// Whether a password is checked now.
    pub fn admit(&self, claim: LoginAttempt, now: Instant) -> LoginAdmission {
        let tallies = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let LoginAttempt { peer, user, user_exists } = claim;
        let (origin, pair) = (ClientNetwork::from(peer), (ClientNetwork::from(peer), user));
        let tally = if user_exists {
            tallies.by_network_and_user.get(&pair)
        } else {
            tallies.by_network.get(&origin)
        };
        if !tally.is_some_and(|tally| tally.is_locked && now < tally.expires_at) {
            LoginAdmission::Verify
        } else if user_exists && tallies.trusted_logins.get(&pair).is_some_and(|trust| now < trust.0) {
            LoginAdmission::PreferCached
        } else {
            LoginAdmission::Reject
        }
    }

    /// Records a failed login; `attempt` is the digest of user name and password.
    pub fn record_failure(
        &self,
        claim: LoginAttempt,
        attempt: CredentialDigest,
        now: Instant,
    ) -> LoginPenalty {
        let mut tallies = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let ThrottleState {
            by_network,
            by_network_and_user,
            by_user: users,
            trusted_networks,
            trusted_logins: _,
        } = &mut *tallies;
        let origin = ClientNetwork::from(claim.peer);
        let new = || FailureWindow::new(now + self.window);
        let by_user = users.get_or_insert_with(claim.user, now, new);
        by_user.record_failure(attempt, now, self.window);
        let by_origin = by_network.get_or_insert_with(origin, now, new);
        by_origin.record_failure(attempt, now, self.window);
        let delay = by_user.delay().max(by_origin.delay());
        let mut new_lockout_failures = self.lock_if_over_limit(by_origin, now);
        if claim.user_exists {
            let by_pair = by_network_and_user.get_or_insert_with((origin, claim.user), now, new);
            by_pair.record_failure(attempt, now, self.window);
            if let Some(failures) = self.lock_if_over_limit(by_pair, now) {
                new_lockout_failures = Some(failures);
                // The reply shows only that the address is over its limit, not which user names exist.
                by_origin.lock_until(by_pair.expires_at);
            }
        }
        let is_trusted = trusted_networks.get(&origin).is_some_and(|trust| now < trust.0);
        LoginPenalty { delay, is_locked_out: by_origin.is_locked, new_lockout_failures, is_trusted }
    }

    /// Locks an entry that exceeds the limit for the first time. Returns its number of failures then.
    fn lock_if_over_limit(&self, tally: &mut FailureWindow, now: Instant) -> Option<u32> {
        let falls = self.max_failures > 0 && tally.failures >= self.max_failures && !tally.is_locked;
        if falls {
            tally.lock_until(now + self.lockout_duration);
        }
        falls.then_some(tally.failures)
    }

    /// A login succeeded. The address keeps its failures: they may be another client's.
    pub fn record_success(&self, peer: IpAddr, user: CredentialDigest, now: Instant) {
        let mut tallies = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        tallies.by_user.remove(&user);
        tallies.trust(peer, user, now, TrustedLogin(now + TRUST_DURATION));
    }

    /// A login succeeded that long ago, in the process before this one.
    pub fn succeeded_before(&self, peer: IpAddr, user: CredentialDigest, ago: Duration, now: Instant) {
        let mut tallies = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        tallies.trust(peer, user, now, TrustedLogin(now + TRUST_DURATION.saturating_sub(ago)));
    }
}

impl ThrottleState {
    fn trust(&mut self, peer: IpAddr, user: CredentialDigest, now: Instant, trust: TrustedLogin) {
        let origin = ClientNetwork::from(peer);
        let known = self.trusted_networks.get_or_insert_with(origin, now, || trust);
        *known = trust.max(*known);
        let known = self.trusted_logins.get_or_insert_with((origin, user), now, || trust);
        *known = trust.max(*known);
    }
}

impl Expires for TrustedLogin {
    fn expires_at(&self) -> Instant {
        self.0
    }
}

impl FailureWindow {
    fn new(expires_at: Instant) -> Self {
        Self { failures: 0, expires_at, is_locked: false, recent_passwords: [None; REMEMBERED_PASSWORDS] }
    }

    fn record_failure(&mut self, attempt: CredentialDigest, now: Instant, window: Duration) {
        if now >= self.expires_at {
            *self = Self::new(now + window);
        }
        if !self.recent_passwords.contains(&Some(attempt)) {
            self.recent_passwords.rotate_right(1);
            self.recent_passwords[0] = Some(attempt);
            self.failures = self.failures.saturating_add(1);
        }
    }

    fn lock_until(&mut self, ends: Instant) {
        self.expires_at = if self.is_locked { self.expires_at.max(ends) } else { ends };
        self.is_locked = true;
    }

    /// Doubles with each failure.
    fn delay(&self) -> Duration {
        let doubled = 1u32 << self.failures.saturating_sub(1).min(MAX_DOUBLINGS);
        (INITIAL_DELAY * doubled).min(MAX_DELAY)
    }
}

impl Expires for FailureWindow {
    fn expires_at(&self) -> Instant {
        self.expires_at
    }
}

/// How long a right login counts: the time between two mails of a client that seldom sends.
pub const TRUST_DURATION: Duration = Duration::from_secs(24 * 3600);
/// Number of rejected passwords that are remembered.
const REMEMBERED_PASSWORDS: usize = 8;
const INITIAL_DELAY: Duration = Duration::from_millis(100);
/// Short of every client's patience, and of the time that we take to stop.
const MAX_DELAY: Duration = Duration::from_secs(5);
const MAX_DOUBLINGS: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn throttle_with(failures: u32) -> LoginThrottle {
        let (window, lockout) = (Duration::from_secs(600), Duration::from_secs(60));
        LoginThrottle::new(&LoginPolicy {
            login_failures: failures,
            login_window: window,
            login_lockout: lockout,
            ..LoginPolicy::default()
        })
    }

    /// That user; those from 100 on are unknown.
    fn attempt_by(from: u8, user: u8) -> LoginAttempt {
        LoginAttempt { peer: [192, 0, 2, from].into(), user: [user; 32], user_exists: user < 100 }
    }

    /// The password with that number, tried for a user.
    fn record_guess(guard: &LoginThrottle, from: u8, user: u8, password: u8, now: Instant) -> LoginPenalty {
        guard.record_failure(attempt_by(from, user), [password; 32], now)
    }

    fn admissions_from(guard: &LoginThrottle, from: u8, now: Instant) -> [LoginAdmission; 3] {
        [1, 2, 100].map(|user| guard.admit(attempt_by(from, user), now))
    }

    const AFTER_LOCKOUT: Duration = Duration::from_secs(60);

    #[test]
    fn delay_doubles_up_to_maximum() {
        let (guard, now) = (throttle_with(0), Instant::now());
        let pauses = (0..8).map(|password| record_guess(&guard, 1, 1, password, now).delay.as_millis());
        assert_eq!(pauses.collect::<Vec<_>>(), [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        for password in 8..255 {
            let consequence = record_guess(&guard, 1, 1, password, now);
            assert_eq!((consequence.delay, consequence.is_locked_out), (MAX_DELAY, false));
        }
        assert_eq!(admissions_from(&guard, 1, now), [LoginAdmission::Verify; 3]);
    }

    #[test]
    fn locks_user_per_address_only() {
        let (guard, now) = (throttle_with(3), Instant::now());
        for password in 1..=2 {
            let consequence = record_guess(&guard, 1, 1, password, now);
            assert_eq!((consequence.new_lockout_failures, consequence.is_locked_out), (None, false));
        }
        assert_eq!(admissions_from(&guard, 1, now), [LoginAdmission::Verify; 3]);
        let consequence = record_guess(&guard, 1, 1, 3, now);
        assert_eq!(
            (consequence.new_lockout_failures, consequence.is_locked_out, consequence.is_trusted),
            (Some(3), true, false)
        );
        assert_eq!(record_guess(&guard, 1, 1, 4, now).new_lockout_failures, None, "one lockout is said once");
        assert_eq!(
            admissions_from(&guard, 1, now),
            [LoginAdmission::Reject, LoginAdmission::Verify, LoginAdmission::Reject]
        );
        assert_eq!(admissions_from(&guard, 2, now), [LoginAdmission::Verify; 3]);
        assert_eq!(admissions_from(&guard, 1, now + AFTER_LOCKOUT), [LoginAdmission::Verify; 3]);
        let later = now + Duration::from_secs(600);
        assert_eq!(record_guess(&guard, 1, 1, 5, later).delay, INITIAL_DELAY, "from anew, after the lockout");
        record_guess(&guard, 1, 1, 6, later);
        assert_eq!(record_guess(&guard, 1, 1, 7, later).new_lockout_failures, Some(3));
    }

    #[test]
    fn many_names_lock_unknown_users_without_revealing_them() {
        let (guard, now) = (throttle_with(3), Instant::now());
        let fell: Vec<_> = (0..3)
            .map(|name| record_guess(&guard, 1, 200 + name, 1 + name, now).new_lockout_failures)
            .collect();
        assert_eq!(fell, [None, None, Some(3)]);
        assert_eq!(
            admissions_from(&guard, 1, now),
            [LoginAdmission::Verify, LoginAdmission::Verify, LoginAdmission::Reject]
        );
        for user in [1, 100] {
            assert!(record_guess(&guard, 1, user, 50, now).is_locked_out, "{user}");
        }
    }

    #[test]
    fn recently_verified_user_is_not_locked() {
        let (guard, now) = (throttle_with(3), Instant::now());
        guard.record_success(attempt_by(1, 1).peer, [1; 32], now);
        let consequences: Vec<_> =
            (1..=3).map(|password| record_guess(&guard, 1, 1, password, now)).collect();
        assert!(consequences[2].is_locked_out && consequences[2].is_trusted);
        assert_eq!(guard.admit(attempt_by(1, 1), now), LoginAdmission::PreferCached);
        assert_eq!(guard.admit(attempt_by(1, 100), now), LoginAdmission::Reject);
        for password in 4..7 {
            record_guess(&guard, 2, 1, password, now);
        }
        assert_eq!(guard.admit(attempt_by(2, 1), now), LoginAdmission::Reject, "elsewhere it is");
        // Guesses go on for a day in which the user sends nothing more.
        let later = now + TRUST_DURATION;
        let [.., last] = [10, 11, 12].map(|password| record_guess(&guard, 1, 1, password, later));
        assert!(last.is_locked_out && !last.is_trusted);
        assert_eq!(guard.admit(attempt_by(1, 1), later), LoginAdmission::Reject);
    }

    #[test]
    fn successful_logins_do_not_reset_address_failures() {
        let (guard, now) = (throttle_with(3), Instant::now());
        for name in 0..3 {
            record_guess(&guard, 1, 200 + name, name, now);
            guard.record_success(attempt_by(1, 1).peer, [1; 32], now);
        }
        assert_eq!(guard.admit(attempt_by(1, 100), now), LoginAdmission::Reject, "a flood costs no hashes");
    }

    #[test]
    fn repeated_wrong_password_counts_once() {
        let (guard, now) = (throttle_with(3), Instant::now());
        for second in 0..1000 {
            let now = now + Duration::from_secs(second);
            let consequence = record_guess(&guard, 1, 1, 1, now);
            assert_eq!((consequence.delay, consequence.is_locked_out), (INITIAL_DELAY, false));
            assert_eq!(admissions_from(&guard, 1, now), [LoginAdmission::Verify; 3]);
        }
    }

    #[test]
    fn failures_expire_with_window() {
        let (guard, now) = (throttle_with(3), Instant::now());
        record_guess(&guard, 1, 1, 1, now);
        record_guess(&guard, 1, 1, 2, now);
        let later = now + Duration::from_secs(600);
        assert_eq!(record_guess(&guard, 1, 1, 3, later).delay, INITIAL_DELAY);
    }

    #[test]
    fn user_guessed_from_many_addresses_is_delayed_not_locked() {
        let (guard, now) = (throttle_with(3), Instant::now());
        let [.., last] = [0, 1, 2, 3, 4, 5, 6].map(|from| record_guess(&guard, from, 1, from, now));
        assert!(last.delay == MAX_DELAY && !last.is_locked_out);
        assert_eq!(record_guess(&guard, 9, 2, 1, now).delay, INITIAL_DELAY);
    }

    #[test]
    fn ipv6_network_counts_as_one_client() {
        let (guard, now) = (throttle_with(3), Instant::now());
        let claim = |last: &str| LoginAttempt {
            peer: format!("2001:db8::{last}").parse().unwrap(),
            ..attempt_by(1, 1)
        };
        guard.record_success(claim("1").peer, [2; 32], now);
        for password in 1..=3 {
            guard.record_failure(claim(&password.to_string()), [password; 32], now);
        }
        assert_eq!(guard.admit(claim("9"), now), LoginAdmission::Reject);
        assert_eq!(guard.admit(LoginAttempt { user: [2; 32], ..claim("9") }, now), LoginAdmission::Verify);
    }

    #[test]
    fn reconfigured_throttle_shares_failures() {
        let (strict, now) = (throttle_with(3), Instant::now());
        record_guess(&strict, 1, 1, 1, now);
        let lenient = strict.reconfigured(&LoginPolicy { login_failures: 4, ..LoginPolicy::default() });
        record_guess(&lenient, 1, 1, 2, now);
        assert_eq!(record_guess(&lenient, 1, 1, 3, now).new_lockout_failures, None);
        assert_eq!(record_guess(&lenient, 1, 1, 4, now).new_lockout_failures, Some(4));
        assert_eq!(strict.admit(attempt_by(1, 1), now), LoginAdmission::Reject);
    }
}
